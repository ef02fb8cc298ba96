import { openStore, probeConditionalCreate } from "@dmkit/object-store";

const store = await openStore("./objects"); // or s3://disks/golden?endpoint=https://ceph.example:7480
await probeConditionalCreate(store, "4f6c9a1e2b7d8035"); // a fresh random token
const created = await store.create("tags/base", Buffer.from("writer 7\n"));
console.log(created ? "ours" : "somebody else was first");
await store.close();
