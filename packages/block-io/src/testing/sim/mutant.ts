/**
 * Mutants: a target with a known fault put back in, so that a test can show that the harness finds it.
 *
 * The production code has no switch for them. Decisions that data hangs on are in one frozen object, the rules of a target,
 * which opening hands down; a mutant is the target opened with others:
 *
 *      // core/rules.ts
 *      export const boatRules: BoatRules = Object.freeze({ floats: (load: number) => load < 9 });
 *
 *      // sim-targets.ts
 *      export const boat = ruled(boatRules, (rules) => ({ …, open: (disks, env) => openBoat(disks, env, rules) }));
 *
 *      // mutants.ts
 *      breaking(boat, "always-floats", { floats: () => true })
 *
 * A fault in what the target asks of its disks (a flush it forgets, a write out of order) needs no rule: hand it other
 * disks with {@link onDisks}. And a public method of a class can be {@link replaced} while a run lasts, for faults of data
 * structures.
 */
import type { BlockDevice } from "../../contract/device.ts";
import type { SimTarget } from "./target.ts";

/** A target that can be opened with other rules. */
export interface RuledTarget<Knobs, Rules> extends SimTarget<Knobs> {
  /** @param changed those that differ. */
  under(changed: Partial<Rules>): SimTarget<Knobs>;
}

/** The target that `make` gives for the rules, and for others. */
export function ruled<Knobs, Rules>(
  rules: Rules,
  make: (rules: Rules) => SimTarget<Knobs>,
): RuledTarget<Knobs, Rules> {
  return { ...make(rules), under: (changed) => make({ ...rules, ...changed }) };
}

/** The same target under rules of which some are wrong. */
export function breaking<Knobs, Rules>(
  target: RuledTarget<Knobs, Rules>,
  name: string,
  changed: Partial<Rules>,
): SimTarget<Knobs> {
  return renamed(target.under(changed), name);
}

function renamed<Knobs>(target: SimTarget<Knobs>, name: string): SimTarget<Knobs> {
  return { ...target, name: `${target.name}!${name}`, summary: name.replaceAll("-", " ") };
}

/** The same target, with a fault that `inject` sets up; `inject` returns what undoes it. */
export function mutant<Knobs>(
  target: SimTarget<Knobs>,
  name: string,
  inject: () => () => void,
): SimTarget<Knobs> {
  return {
    ...renamed(target, name),
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
 * `make` gets the original. The member is looked up by name, and must exist.
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
    ...renamed(target, name),
    open: (disks, env, knobs) => target.open(disks.map(wrap), env, knobs),
  };
}
