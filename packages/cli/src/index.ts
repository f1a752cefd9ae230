export { stageOf } from "./commands/demo.ts";
export { joinLab } from "./commands/lab.ts";
export { tellStory } from "./demo/story.ts";
