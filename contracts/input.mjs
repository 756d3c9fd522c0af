// The compiler's input, one for compile.mjs and for the solc that forge calls.

export const VERSION = "0.8.28+commit.7893614a";

// No metadata in the bytecode, so that it depends on nothing but the code; Paris, so that it runs where PUSH0 does not.
export const settings = {
  optimizer: { enabled: true, runs: 1000000 },
  evmVersion: "paris",
  viaIR: false,
  metadata: { bytecodeHash: "none", appendCBOR: false },
};
