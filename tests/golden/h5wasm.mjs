// Read a checkpoint with h5wasm (HDF5 compiled for browsers, which H5Web uses) and print some of its contents as JSON.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const entry = process.cwd() + "/node_modules/h5wasm/dist/node/hdf5_hl.js";  // the module "h5wasm/node" in npm's folder
const { default: h5wasm } = await import(pathToFileURL(entry).href);
const { FS } = await h5wasm.ready;
FS.writeFile("m.h5", readFileSync(process.argv[2]));
const file = new h5wasm.File("m.h5", "r");
const history = file.get("training/history");
console.log(JSON.stringify({
  format: file.attrs.format.value,
  first: file.attrs.default.value,
  document: JSON.parse(file.get("model_spec").value).name,
  weight: Array.from(file.get("layers/hidden/parameters/weight").value),
  shape: file.get("layers/hidden/parameters/weight").shape,
  signal: history.attrs.signal.value,
  loss: Array.from(history.get(history.attrs.signal.value).value),
}));
