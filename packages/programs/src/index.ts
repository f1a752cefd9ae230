export { bundle, type BundledProgram } from "./bundle.ts";
export {
  FAKE_CLOUD_HYPERVISOR_BIN,
  localProgram,
  type LocalProgram,
  prepareLocalPrograms,
} from "./local.ts";
