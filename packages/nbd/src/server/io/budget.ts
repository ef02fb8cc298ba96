/**
 * Bytes in flight, of one connection and of all.
 *
 *     total:   | guaranteed, the same for each account | shared, for what exceeds the guarantee |
 *
 * Invariants:
 *
 * - an account never holds more than `perAccount`, and all together never more than `total`;
 * - up to its guarantee an account always gets what it asks for, whatever the others do;
 * - beyond that it takes from the shared half, but only while it will then hold no more of it than was left:
 *   the more is taken, the less one may take, and greedy clients end up with equal parts;
 * - whoever could not take waits, and is called in order of arrival when something was given back. Others may
 *   overtake, but one who waits and holds next to nothing is not overtaken for ever: after that the others
 *   have to make do with their guarantees.
 */

// Times one who holds next to nothing may be overtaken.
const PATIENCE = 256;

export class ByteBudget {
  readonly perAccount: number;
  readonly #guarantee: number;
  // Who holds no more than this is not being served.
  readonly #little: number;
  readonly #shared: number;
  #used = 0;
  #sharedUsed = 0;
  #waiting: Account[] = [];

  /**
   * @param total bytes for all accounts.
   * @param perAccount bytes for each, at most half of the total.
   * @param accounts how many there are at a time, at most.
   * @param overhead bytes an account may hold although none of its requests is in flight.
   */
  constructor(total: number, perAccount: number, accounts: number, overhead = 0) {
    this.perAccount = perAccount;
    this.#guarantee = Math.floor(total / 2 / accounts);
    this.#little = Math.max(this.#guarantee, overhead);
    this.#shared = total - this.#guarantee * accounts;
  }

  /** Bytes taken by all accounts. */
  get used(): number {
    return this.#used;
  }

  /** @param resume called when an account that was refused may try again. */
  open(resume: () => void): Account {
    return new Account(this, resume);
  }

  /** For {@link Account} only. */
  take(account: Account, charge: number): boolean {
    if (account.wanted > 0 && this.#admits(account, charge)) this.#leave(account);
    if (this.tryTake(account, charge)) return true;
    account.wanted = charge;
    if (!this.#waiting.includes(account)) this.#waiting.push(account);
    return false;
  }

  /** For {@link Account} only. */
  tryTake(account: Account, charge: number): boolean {
    if (!this.#admits(account, charge)) return false;
    const starving = this.#starving();
    if (starving !== undefined) starving.overtaken += 1;
    this.#hold(account, account.held + charge);
    return true;
  }

  /** For {@link Account} only. */
  give(account: Account, charge: number): void {
    this.#hold(account, account.held - charge);
    this.#wake();
  }

  /** For {@link Account} only. */
  forget(account: Account): void {
    this.#leave(account);
    // Somebody may have waited only for this one to be served first.
    this.#wake();
  }

  #hold(account: Account, bytes: number): void {
    this.#used += bytes - account.held;
    this.#sharedUsed += this.#beyond(bytes) - this.#beyond(account.held);
    account.held = bytes;
  }

  /** What of `bytes` is not covered by an account's guarantee. */
  #beyond(bytes: number): number {
    return Math.max(0, bytes - this.#guarantee);
  }

  #admits(account: Account, charge: number): boolean {
    const bytes = account.held + charge;
    if (bytes > this.perAccount) return false;
    if (bytes <= this.#guarantee) return true;
    if (this.#beyond(bytes) > this.#shared - this.#sharedUsed) return false;
    const starving = this.#starving();
    return starving === undefined || starving === account || starving.overtaken < PATIENCE;
  }

  /** The first in the queue of those who hold next to nothing; the others are being served already. */
  #starving(): Account | undefined {
    return this.#waiting.length === 0 ? undefined : this.#waiting.find(({ held }) => held <= this.#little);
  }

  #wake(): void {
    if (this.#waiting.length === 0) return;
    for (const account of this.#waiting.slice()) {
      if (account.wanted > 0 && this.#admits(account, account.wanted)) account.resume();
    }
  }

  #leave(account: Account): void {
    account.wanted = 0;
    account.overtaken = 0;
    const index = this.#waiting.indexOf(account);
    if (index >= 0) this.#waiting.splice(index, 1);
  }
}

/** One connection's share of a {@link ByteBudget}. */
export class Account {
  /** Bytes held; changed by the budget only. */
  held = 0;
  /** Bytes it waits for; 0 while it does not wait. */
  wanted = 0;
  /** Times others were served while it waited and held next to nothing. */
  overtaken = 0;
  readonly resume: () => void;
  readonly #budget: ByteBudget;

  constructor(budget: ByteBudget, resume: () => void) {
    this.#budget = budget;
    this.resume = resume;
  }

  /** Takes `charge` bytes, or returns false and calls `resume` when it is worth trying again. */
  take(charge: number): boolean {
    return this.#budget.take(this, charge);
  }

  /** Takes `charge` bytes if that is possible now, and does not wait for them otherwise. */
  tryTake(charge: number): boolean {
    return this.#budget.tryTake(this, charge);
  }

  /** Gives `charge` bytes back. */
  give(charge: number): void {
    this.#budget.give(this, charge);
  }

  /** Waits no more. What is held stays held until it is given back. */
  close(): void {
    this.#budget.forget(this);
  }
}
