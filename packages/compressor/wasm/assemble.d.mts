/** See assemble.mjs. */
export declare function assembled(): Promise<string>;
