/** What calls libraries of the system, as it is not always: short of descriptors, or not there. */
import { vi } from "vitest";

interface Koffi {
  readonly default: { load(name: string): object };
}

/** No library loads from now on, as on a machine without descriptors, until what is returned is called. */
export async function shortOfDescriptors(): Promise<() => void> {
  vi.resetModules();
  const real = (await vi.importActual<Koffi>("koffi")).default;
  let isShort = true;
  const load = (name: string): object => {
    if (isShort) throw new Error(`${name}: cannot open shared object file: Too many open files`);
    return real.load(name);
  };
  vi.doMock("koffi", () => ({ default: { ...real, load } }));
  return () => {
    isShort = false;
  };
}

/** Ways in which there is no library to be used: what the module of koffi is then. @param tooOld a version of the library. */
export function withoutLibrary(tooOld: number): readonly (readonly [what: string, koffi: () => object])[] {
  const fail = (reason: string): never => {
    throw new Error(reason);
  };
  return [
    ["no koffi", () => fail("no koffi")],
    ["no library", () => ({ default: { load: () => fail("no such file") } })],
    ["one that is too old", () => ({ default: { load: () => ({ func: () => () => tooOld }) } })],
  ];
}

/** For `afterEach`: koffi is what it is again. */
export function restoreKoffi(): void {
  vi.doUnmock("koffi");
  vi.resetModules();
}
