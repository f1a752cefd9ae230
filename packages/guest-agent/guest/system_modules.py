"""Imported first by the kernel and its bridge: from then on their modules are the system's,
whatever users install beside these, or name in PYTHONPATH.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# The search path before it is restricted below.
USERS_PATH = [entry for entry in sys.path if entry != HERE]
sys.path[:] = [
    HERE,
    *(entry for entry in USERS_PATH if entry.startswith(f"{sys.base_prefix}/lib/python3")),
]
