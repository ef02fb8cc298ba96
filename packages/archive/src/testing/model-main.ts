#!/usr/bin/env node
/** `npm run model -- [schedules] [first seed]`: the model check of the takeover, honest and with each fault put in. */
import { mutants, runSchedules } from "./model-run.ts";

const [count = 20_000, first = 1] = process.argv.slice(2).map(Number);
const { violations, ...figures } = await runSchedules(count, { first });
process.stdout.write(`${JSON.stringify({ ...figures, violations: violations.length })}\n`);
for (const violation of violations) process.stdout.write(`${violation}\n`);
let isSound = violations.length === 0;
for (const [name, settings] of Object.entries(mutants)) {
  const schedules = Math.ceil(count / 10);
  const found = (await runSchedules(schedules, { first, settings, most: schedules })).violations.length;
  process.stdout.write(`${name}: ${found} of ${schedules} schedules fail\n`);
  isSound &&= found > 0;
}
process.exitCode = isSound ? 0 : 1;
