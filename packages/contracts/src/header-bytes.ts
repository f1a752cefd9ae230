/**
 * Limit of all headers of a request or a response together, from clients and guests. Programs in
 * between allow ADDED_HEADER_BYTES more, for the headers that they add.
 */
export const MAX_HEADER_BYTES = 64 * 1024;
export const ADDED_HEADER_BYTES = 8 * 1024;
