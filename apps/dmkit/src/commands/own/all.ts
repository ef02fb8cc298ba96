/**
 * Commands for what one target alone can do, each in a folder of its own: nothing else of the app knows one target from
 * another. A target without commands needs nothing here.
 */
import type { CommandModule } from "../command.ts";

export const ownCommands: readonly CommandModule[] = [
  { names: ["publish", "pull"], load: async () => (await import("./image/publish.ts")).addPublish },
  { names: ["image"], load: async () => (await import("./image/image.ts")).addImage },
  { names: ["archive"], load: async () => (await import("./archive/archive.ts")).addArchive },
  { names: ["recompress"], load: async () => (await import("./compression/recompress.ts")).addRecompress },
  { names: ["cow"], load: async () => (await import("./cow/cow.ts")).addCow },
];
