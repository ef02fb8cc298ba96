/** 32 hexadecimal digits in groups of 8, 4, 4, 4, 12, separated by dashes; names a layer. */
export type Uuid = string;
