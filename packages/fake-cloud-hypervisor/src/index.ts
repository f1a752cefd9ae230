export { type Fault, FAULTS_VARIABLE, setFaults } from "./faults.ts";
