// Hostile-input fuzzing of every backend, each in a child process: a crash or a hang of native code is a
// failure, and the cases that led to it are named.
//
//   node fuzz/hostile.mjs [--backend NAME,NAME] [--count N] [--seed N] [--from N]
//
// N damaged inputs for each backend, 1000000 by default. A run takes minutes: lzo and lz4 about 2 each.
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { findBackend, listBackends } from "../dist/index.js";
import { attackBackend } from "../dist/testing/index.js";

const SILENCE_LIMIT = 120_000;

const { values } = parseArgs({
  options: {
    backend: { type: "string", default: listBackends().join(",") },
    count: { type: "string", default: "1000000" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
    from: { type: "string", default: "0" },
  },
});
const [count, seed, from] = [values.count, values.seed, values.from].map(Number);

if (process.send === undefined) {
  for (const name of values.backend.split(",")) await supervise(name);
} else {
  await attack(values.backend);
}

async function attack(name) {
  const backend = findBackend(name);
  await backend.load?.();
  const result = attackBackend(backend, { seed, count, from, progress: (next) => process.send({ next }) });
  process.send({ result }, () => process.exit(0));
}

function supervise(name) {
  const args = ["--backend", name, "--count", `${count}`, "--seed", `${seed}`, "--from", `${from}`];
  const child = fork(fileURLToPath(import.meta.url), args);
  const start = performance.now();
  const seconds = () => `${((performance.now() - start) / 1000).toFixed(0)} s`;
  let next = from;
  let result;
  let silence = setTimeout(kill, SILENCE_LIMIT);
  let shown = 0;

  function kill() {
    console.error(`${name}: no progress for ${SILENCE_LIMIT / 1000} s: hangs`);
    child.kill("SIGKILL");
  }

  child.on("message", (message) => {
    silence.refresh();
    if (message.result !== undefined) result = message.result;
    else next = message.next;
    if (performance.now() - shown > 5000) {
      shown = performance.now();
      console.log(`${name}: ${next - from} of ${count}, ${seconds()}`);
    }
  });

  return new Promise((resolve) => {
    child.on("exit", (code, signal) => {
      clearTimeout(silence);
      if (code === 0 && result !== undefined) {
        const { refused, accepted } = result;
        console.log(
          `${name}: ${count} inputs survived, ${refused} refused, ${accepted} accepted, seed ${seed}, ${seconds()}`,
        );
      } else {
        process.exitCode = 1;
        console.error(
          `${name}: FAILED (${signal ?? `exit code ${code}`}) in the cases from ${next} on; run again with ` +
            `--backend ${name} --seed ${seed} --from ${next} --count 5000`,
        );
      }
      resolve();
    });
  });
}
