/**
 * Mutants: a target with a known fault put back in, so that a test can show that the harness finds it.
 *
 * The production code pays nothing: it has no switch. A mutant replaces one member of an object while a run
 * lasts. What can be replaced is a method of a class, or a function kept in an exported object:
 *
 *      // core/replay.ts
 *      export const replayRules = { accepts: (record: Record, expected: number): boolean => … };
 *
 *      // test
 *      mutant(target, "believes-gaps", () => replaced(replayRules, "accepts", () => () => true))
 *
 * A `#private` method and a function exported by itself cannot be replaced: keep the decisions a mutant should
 * reach in `private` methods (replaced by name) or in such objects. A fault in what the target asks of its disks
 * (a flush it forgets, a write out of order) needs no hook at all: hand it other disks with {@link onDisks}.
 */
import type { BlockDevice } from "../../contract/device.ts";
import type { SimTarget } from "./target.ts";

/** The same target, with a fault that `inject` sets up; `inject` returns what undoes it. */
export function mutant<Knobs>(
  target: SimTarget<Knobs>,
  name: string,
  inject: () => () => void,
): SimTarget<Knobs> {
  return {
    ...target,
    name: `${target.name}!${name}`,
    summary: name.replaceAll("-", " "),
    inject: () => {
      const undoOther = target.inject?.();
      const undo = inject();
      return () => {
        undo();
        undoOther?.();
      };
    },
  };
}

/**
 * Replaces a member of `owner` (a class's prototype, or an object of functions) until the result is called.
 * `make` gets the original. The member may be private: it is looked up by name, and must exist.
 */
export function replaced<Value>(owner: object, key: string, make: (original: Value) => Value): () => void {
  const original = Object.getOwnPropertyDescriptor(owner, key);
  if (original === undefined) throw new TypeError(`there is no member ${key} to replace`);
  Object.defineProperty(owner, key, { ...original, value: make(original.value as Value) });
  return () => void Object.defineProperty(owner, key, original);
}

/** The same target on wrapped disks: whatever `wrap` gets wrong, the target gets wrong. */
export function onDisks<Knobs>(
  target: SimTarget<Knobs>,
  name: string,
  wrap: (disk: BlockDevice, index: number) => BlockDevice,
): SimTarget<Knobs> {
  return {
    ...target,
    name: `${target.name}!${name}`,
    summary: name.replaceAll("-", " "),
    open: (disks, env, knobs) => target.open(disks.map(wrap), env, knobs),
  };
}
