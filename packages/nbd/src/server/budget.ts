/**
 * Bytes in flight, of one connection and of all.
 *
 * Invariants:
 *
 * - `used` is the sum of what the accounts hold and never exceeds `total`;
 * - an account takes `charge` only if what it then holds is at most `perAccount` and at most what is left for
 *   everybody. So the more one holds, the less of the rest it may take: n greedy clients end up with
 *   total / (n + 1) each, and there is always as much left for one more;
 * - whoever could not take waits, and is called in order of arrival when something was given back. One that
 *   has been overtaken too often is no longer overtaken by those who already hold something.
 */
const PATIENCE = 256;

export class ByteBudget {
  readonly total: number;
  readonly perAccount: number;
  #used = 0;
  #waiting: Account[] = [];
  #overtaken = 0;

  /** @param total bytes for all accounts. @param perAccount bytes for each; at most `total`. */
  constructor(total: number, perAccount: number) {
    this.total = total;
    this.perAccount = perAccount;
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
    const first = this.#waiting[0];
    if (first === undefined || first === account) {
      if (this.#fits(account, charge)) return this.#taken(account, charge);
    } else if ((this.#overtaken < PATIENCE || account.held === 0) && this.#fits(account, charge)) {
      this.#overtaken += 1;
      return this.#taken(account, charge);
    }
    account.wanted = charge;
    if (!this.#waiting.includes(account)) this.#waiting.push(account);
    return false;
  }

  /** For {@link Account} only. */
  give(charge: number): void {
    this.#used -= charge;
    if (this.#waiting.length === 0) return;
    for (const account of this.#waiting.slice()) {
      if (account.wanted > 0 && this.#fits(account, account.wanted)) account.resume();
    }
  }

  /** For {@link Account} only. */
  forget(account: Account): void {
    const index = this.#waiting.indexOf(account);
    if (index < 0) return;
    if (index === 0) this.#overtaken = 0;
    this.#waiting.splice(index, 1);
    account.wanted = 0;
  }

  #fits(account: Account, charge: number): boolean {
    return charge <= Math.min(this.perAccount, this.total - this.#used) - account.held;
  }

  #taken(account: Account, charge: number): true {
    if (account.wanted > 0) this.forget(account);
    this.#used += charge;
    return true;
  }
}

/** One connection's share of a {@link ByteBudget}. */
export class Account {
  /** Bytes held. */
  held = 0;
  /** Bytes it waits for; 0 while it does not wait. */
  wanted = 0;
  readonly #budget: ByteBudget;
  readonly resume: () => void;

  constructor(budget: ByteBudget, resume: () => void) {
    this.#budget = budget;
    this.resume = resume;
  }

  /** Takes `charge` bytes, or returns false and calls `resume` when it is worth trying again. */
  take(charge: number): boolean {
    if (!this.#budget.take(this, charge)) return false;
    this.held += charge;
    return true;
  }

  /** Gives `charge` bytes back. */
  give(charge: number): void {
    this.held -= charge;
    this.#budget.give(charge);
  }

  /** Waits no more. What is held stays held until it is given back. */
  close(): void {
    this.#budget.forget(this);
  }
}
