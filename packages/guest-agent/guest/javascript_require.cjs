/** Loaded before a module: provides `require` beside `import`, as in a script. */
const { createRequire } = require("node:module");
const { join } = require("node:path");

globalThis.require = createRequire(join(process.cwd(), "[stdin]"));
