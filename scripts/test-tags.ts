/** The rule is in docs/testing.md. `./torpor test --all` runs the tests with this tag. */
export const EXHAUSTIVE = {
  name: "exhaustive",
  description:
    "one more case of what an ordinary test holds: another seed, another moment, many more repetitions",
};
