/** Paths of the application; every other path responds with a few bytes. */
export const STREAM_PATH = "/stream";
export const ECHO_PATH = "/echo";
