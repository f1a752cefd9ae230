/** See docs/testing.md for the rule. `./torpor test --all` runs what carries the tag. */
export const EXHAUSTIVE = {
  name: "exhaustive",
  description:
    "one more case of what an ordinary test holds: another seed, another moment, many more repetitions",
};
