export { stageOf } from "./commands/demo.ts";
export { tellStory } from "./demo/story.ts";
