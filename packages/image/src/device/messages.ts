/** What a running image can be told. */
import { type Controls, noControls } from "@dmkit/block-io";

/** A running image, as its messages see it. */
export interface ControlledImage {
  /** Chunks in the order in which they were first read. */
  readonly firstReads: readonly number[];
  clearFirstReads(): void;
}

export const imageControls: Controls<ControlledImage> = {
  ...noControls,
  messages: {
    first_reads: {
      arguments: "",
      readOnly: true,
      help: "answers with the chunks in the order in which they were first read",
      run: (device) => device.firstReads.join(" "),
    },
    clear_first_reads: {
      arguments: "",
      readOnly: true,
      help: "forgets which chunks were read",
      run(device) {
        device.clearFirstReads();
        return "";
      },
    },
  },
};
