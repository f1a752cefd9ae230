/**
 * Of all headers of a request or an answer together, as clients and guests may send them. Programs
 * on the way take so much more, for what they add.
 */
export const MAX_HEADER_BYTES = 64 * 1024;
export const ADDED_HEADER_BYTES = 8 * 1024;
