/** The rules of the oracle, one by one, on histories written by hand: legal ones and illegal ones. */
import { describe, expect, it } from "vitest";
import { FOREIGN, GARBAGE, INITIAL, Oracle, type Version, ZERO } from "../../src/testing/sim/index.ts";

/** One sector; reads and writes by hand. */
class History {
  readonly oracle = new Oracle(4);

  submit(content: number): Version {
    return this.oracle.beginWrite(content, 0, 1);
  }

  write(content: number, fua = false): void {
    this.oracle.acknowledge(this.submit(content), fua);
  }

  flush(): void {
    this.oracle.flushed(this.oracle.beginFlush());
  }

  discard(): void {
    this.oracle.acknowledge(this.oracle.beginWrite(ZERO, 0, 1, true));
  }

  /** A read from start to end; true if it is legal. */
  read(content: number, submitted = this.oracle.beginRead()): boolean {
    const finding = this.oracle.check(submitted, 0, content);
    this.oracle.endRead(submitted);
    return finding === undefined;
  }

  legal(): number[] {
    return this.oracle.legal(0).sort((a, b) => a - b);
  }
}

describe("oracle: after a kill", () => {
  it("the contents are those of a crash, and a read binds live reads only", () => {
    const history = new History();
    history.write(1);
    history.oracle.kill();
    expect(history.read(7)).toBe(false);
    expect(history.read(1)).toBe(true);
    expect(history.read(ZERO)).toBe(false);
    history.oracle.crash();
    expect(history.read(ZERO)).toBe(true);
    expect(history.read(1)).toBe(false);
  });

  it("a flush, or a FUA write, makes what was read stay", () => {
    for (const fua of [false, true]) {
      const history = new History();
      history.write(1);
      history.oracle.kill();
      expect(history.read(1)).toBe(true);
      if (fua) history.write(2, true);
      else history.flush();
      expect(history.legal()).toEqual([fua ? 2 : 1]);
    }
  });

  it("an unstable write adds to what a crash may bring back, also after another kill", () => {
    const history = new History();
    history.write(1);
    history.oracle.kill();
    expect(history.read(1)).toBe(true);
    history.write(2);
    history.oracle.kill();
    expect(history.legal()).toEqual([ZERO, 1, 2]);
    expect(history.oracle.fork().legal(0)).toHaveLength(3);
  });
});

describe("oracle: after a crash", () => {
  it("an untouched sector holds its initial contents", () => {
    const history = new History();
    history.oracle.crash();
    expect(history.read(ZERO)).toBe(true);
    expect(history.read(7)).toBe(false);
    const stamped = new Oracle(1, () => true);
    expect(stamped.check(stamped.beginRead(), 0, INITIAL)).toBeUndefined();
    expect(stamped.check(stamped.beginRead(), 0, ZERO)?.rule).toBe("illegal");
  });

  it("an acknowledged write may be lost, or not", () => {
    const history = new History();
    history.write(1);
    expect(history.legal()).toEqual([ZERO, 1]);
  });

  it("of several unstable writes any may survive", () => {
    const history = new History();
    history.write(1);
    history.write(2);
    history.submit(3);
    expect(history.legal()).toEqual([ZERO, 1, 2, 3]);
  });

  it("a flushed write may not be lost, nor what came before it come back", () => {
    const history = new History();
    history.write(1);
    history.write(2);
    history.flush();
    expect(history.legal()).toEqual([2]);
    history.write(3);
    expect(history.legal()).toEqual([2, 3]);
  });

  it("a flush covers only what was acknowledged before it was submitted", () => {
    const history = new History();
    const late = history.submit(1);
    const flush = history.oracle.beginFlush();
    history.oracle.acknowledge(late);
    history.oracle.flushed(flush);
    expect(history.legal()).toEqual([ZERO, 1]);
    history.flush();
    expect(history.legal()).toEqual([1]);
  });

  it("a failed flush covers nothing, and the next one everything", () => {
    const history = new History();
    history.write(1);
    history.oracle.beginFlush();
    expect(history.legal()).toEqual([ZERO, 1]);
    history.flush();
    expect(history.legal()).toEqual([1]);
  });

  it("a FUA write is stable by itself, and only itself", () => {
    const history = new History();
    const other = history.oracle.beginWrite(5, 1, 1);
    history.oracle.acknowledge(other);
    history.write(1);
    history.write(2, true);
    expect(history.legal()).toEqual([2]);
    expect(history.oracle.legal(1).sort((a, b) => a - b)).toEqual([ZERO, 5]);
  });

  it("concurrent stable writes are both in the frontier", () => {
    const history = new History();
    const first = history.submit(1);
    const second = history.submit(2);
    history.oracle.acknowledge(first);
    history.oracle.acknowledge(second);
    history.flush();
    expect(history.legal()).toEqual([1, 2]);
  });

  it("a write that failed or was never answered stays in doubt, even across a flush", () => {
    const history = new History();
    history.submit(1);
    history.write(2);
    history.flush();
    expect(history.legal()).toEqual([1, 2]);
    history.oracle.crash();
    expect(history.read(ZERO)).toBe(false);
  });

  it("recovery is sticky: what was read once stays, through further crashes", () => {
    const history = new History();
    history.write(1);
    history.write(2);
    history.oracle.crash();
    expect(history.legal()).toEqual([ZERO, 1, 2]);
    history.oracle.crash();
    expect(history.legal()).toEqual([ZERO, 1, 2]);
    expect(history.read(1)).toBe(true);
    expect(history.read(2)).toBe(false);
    history.oracle.crash();
    expect(history.legal()).toEqual([1]);
  });

  it("a write after recovery leaves the alternatives as they were", () => {
    const history = new History();
    history.write(1);
    history.oracle.crash();
    history.write(5);
    expect(history.legal()).toEqual([ZERO, 1, 5]);
    history.flush();
    expect(history.legal()).toEqual([5]);
  });
});

describe("oracle: live reads", () => {
  it("an acknowledged write must be seen", () => {
    const history = new History();
    history.write(1);
    expect(history.read(ZERO)).toBe(false);
    expect(history.read(1)).toBe(true);
  });

  it("a read that began before the acknowledgement may see either", () => {
    const history = new History();
    const write = history.submit(1);
    const read = history.oracle.beginRead();
    history.oracle.acknowledge(write);
    expect(history.oracle.check(read, 0, ZERO)).toBeUndefined();
    expect(history.read(1, read)).toBe(true);
  });

  it("new, then old again is a flip", () => {
    const history = new History();
    history.write(1);
    history.submit(2);
    expect(history.read(1)).toBe(true);
    expect(history.read(2)).toBe(true);
    expect(history.read(1)).toBe(false);
  });

  it("two concurrent writes settle on one of them", () => {
    const history = new History();
    const first = history.submit(1);
    const second = history.submit(2);
    history.oracle.acknowledge(second);
    history.oracle.acknowledge(first);
    expect(history.read(1)).toBe(true);
    expect(history.read(2)).toBe(false);
    expect(history.read(1)).toBe(true);
  });

  it("a failed write may show up once, and then stays", () => {
    const history = new History();
    history.write(1);
    history.submit(2);
    expect(history.read(1)).toBe(true);
    expect(history.read(2)).toBe(true);
    expect(history.read(1)).toBe(false);
  });

  it("zeroes that were written must be seen, and written data must not read as zeroes", () => {
    const history = new History();
    history.write(1);
    expect(history.read(ZERO)).toBe(false);
    history.write(ZERO);
    expect(history.read(1)).toBe(false);
    expect(history.read(ZERO)).toBe(true);
    history.write(2);
    expect(history.read(ZERO)).toBe(false);
  });

  it("a version that is no longer kept because newer ones made it impossible is still illegal", () => {
    const history = new History();
    for (let content = 1; content < 50; content += 1) history.write(content);
    expect(history.read(1)).toBe(false);
    expect(history.read(ZERO)).toBe(false);
    expect(history.read(49)).toBe(true);
    expect(history.legal()).toEqual(Array.from({ length: 50 }, (_, index) => index));
  });

  it("a read in flight keeps alive what it may return", () => {
    const history = new History();
    const read = history.oracle.beginRead();
    for (let content = 1; content < 50; content += 1) {
      history.write(content);
      history.flush();
    }
    expect(history.read(ZERO, read)).toBe(true);
  });

  it("tells garbage and foreign sectors", () => {
    const { oracle } = new History();
    expect(oracle.check(oracle.beginRead(), 0, GARBAGE)?.rule).toBe("garbage");
    expect(oracle.check(oracle.beginRead(), 0, FOREIGN)?.rule).toBe("foreign");
  });
});

describe("oracle: discards without defined result", () => {
  it("leave the old contents and zeroes, live and after a crash", () => {
    const history = new History();
    history.write(1);
    history.flush();
    history.discard();
    history.flush();
    expect(history.legal()).toEqual([ZERO, 1]);
    expect(history.read(1)).toBe(true);
    const other = new History();
    other.write(1);
    other.discard();
    expect(other.read(ZERO)).toBe(true);
    expect(other.read(1)).toBe(false);
  });

  it("do not turn into zeroes after they were seen to do nothing", () => {
    const history = new History();
    history.write(1);
    history.discard();
    expect(history.read(1)).toBe(true);
    expect(history.read(ZERO)).toBe(false);
  });

  it("never bring back what was overwritten before", () => {
    const history = new History();
    history.write(1);
    history.write(2);
    history.flush();
    history.discard();
    expect(history.legal()).toEqual([ZERO, 2]);
    expect(history.read(1)).toBe(false);
  });

  it("are over when something is written", () => {
    const history = new History();
    history.discard();
    history.write(3);
    history.flush();
    expect(history.legal()).toEqual([3]);
    expect(history.read(ZERO)).toBe(false);
  });
});

describe("oracle: disks that lie", () => {
  it("knows what was ever written to a sector, and what never was", () => {
    const { oracle } = new History();
    oracle.acknowledge(oracle.beginWrite(1, 0, 2), true);
    oracle.acknowledge(oracle.beginWrite(2, 0, 1), true);
    expect(oracle.known(0, 1)).toBeUndefined();
    expect(oracle.known(1, 1)).toBeUndefined();
    expect(oracle.known(1, 2)?.rule).toBe("illegal");
    expect(oracle.known(0, GARBAGE)?.rule).toBe("garbage");
  });
});

describe("oracle: copies", () => {
  it("do not see each other", () => {
    const history = new History();
    history.write(1);
    const copy = history.oracle.fork();
    copy.crash();
    expect(copy.check(copy.beginRead(), 0, ZERO)).toBeUndefined();
    expect(history.read(ZERO)).toBe(false);
    expect(copy.legal(0)).toEqual([ZERO]);
  });
});
