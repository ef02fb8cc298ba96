import { createCompressor } from "@dmkit/compressor";

const compressor = await createCompressor("lz4", { maxStreams: 4, maxInput: 131072 });
const data = Buffer.from("sixteen letters ".repeat(256));
const stream = await compressor.acquire(); // first come, first served
const length = await stream.compress(data, 3584); // -1: would be longer than 3584 bytes
const stored = Buffer.from(stream.output.subarray(0, length));
stream.release(); // only now may somebody else write to stream.output
const into = Buffer.alloc(data.length);
console.log((await compressor.decompress(stored, into)) === into.length); // needs no stream
await compressor.close();
