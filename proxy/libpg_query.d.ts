/** The part of libpg-query's Emscripten module that the parser uses; the package types none of it. */
declare module "libpg-query/wasm/libpg-query.js" {
  export interface PgQueryModule {
    /** Replaced when the memory grows: never keep it. */
    readonly HEAPU8: Uint8Array;
    _malloc(size: number): number;
    _free(pointer: number): void;
    _wasm_parse_query_raw(text: number): number;
    _wasm_free_parse_result(result: number): void;
    getValue(pointer: number, type: "i32"): number;
    UTF8ToString(pointer: number): string;
  }
  /** Told what to link with; hands the instance to `receive`, at once or later. */
  export type InstantiateWasm = (
    imports: Parameters<typeof WebAssembly.instantiate>[1],
    receive: (instance: WebAssembly.Instance) => void,
  ) => object;
  function createModule(options: { instantiateWasm: InstantiateWasm }): Promise<PgQueryModule>;

  // biome-ignore lint/style/noDefaultExport: that is what the package has.
  export { createModule as default };
}

/** Imported as a file: its path. */
declare module "libpg-query/wasm/libpg-query.wasm" {
  const path: string;

  // biome-ignore lint/style/noDefaultExport: that is what a file import has.
  export { path as default };
}
