/** What rows are to reach: ours by the best peer in the same run, on a machine with nothing else running. */
const goals: readonly (readonly [group: RegExp, work: RegExp, ratio: number])[] = [
  // One turn answers what came with one read of the socket, where others make a system call a request.
  [/^memory$/, /^4k .*depth 32/, 2],
  [/^file$/, /^4k .*depth 32/, 1.5],
  [/^(writeboost|assoc-cache|cow|zram)$/, /^4k .*depth 32/, 3],
  [/^(zram|compression)$/, /^(128k|1M) /, 2],
  // Whole chunks, several at a time, against an object a request.
  [/^image/, /^128k /, 5],
  [/./, /./, 1],
];

/** The ratio a row is to reach. */
export function goalOf(group: string, work: string): number {
  return goals.find(([groups, works]) => groups.test(group) && works.test(work))?.[2] as number;
}
