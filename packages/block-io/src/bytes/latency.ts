/**
 * Latencies are counted in buckets of doubling width: bucket i for what took 2^i up to 2^(i+1) microseconds, bucket 0
 * from 0 on, and the last one for all that took longer.
 */

// More would wrap in clz32.
const LONGEST = 0xffff_ffff;

/**
 * The bucket of a latency. Costs some nanoseconds: it is asked for with each request.
 * @param buckets how many there are, at most 32.
 */
export function latencyBucket(milliseconds: number, buckets: number): number {
  const microseconds = milliseconds * 1000;
  if (microseconds < 1) return 0;
  return Math.min(buckets - 1, 31 - Math.clz32(Math.min(microseconds, LONGEST)));
}
