export { SimulatedGuest } from "./guest.ts";
