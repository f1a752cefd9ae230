/** Of the application; everything else answers with a few bytes. */
export const STREAM_PATH = "/stream";
export const ECHO_PATH = "/echo";
