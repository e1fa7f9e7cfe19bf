// What VS Code's own JSON engine says of documents under the schema given as argument; printed as JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { getLanguageService, TextDocument } = createRequire(process.cwd() + "/")("vscode-json-languageservice");
const schema = JSON.parse(readFileSync(process.argv[2], "utf8"));
const service = getLanguageService({});
service.configure({ validate: true, schemas: [{ uri: "specnet://model", fileMatch: ["*"], schema }] });

const around = (layer) => `{"input_shape": [4], "layers": [${layer}]}`;
const documents = {
  "a right document": around('{"type": "affine", "units": 3}, {"type": "relu"}'),
  "a misspelt type": around('{"type": "relo"}'),
  "a misspelt key": around('{"type": "affine", "unit": 3}'),
  "a string for a number": around('{"type": "affine", "units": "3"}'),
  "a misspelt initializer": around('{"type": "affine", "units": 3, "weight_init": "he_norml"}'),
  "a type misspelt in a block": around('{"type": "residual", "layers": [{"type": "tanj"}]}'),
  "a key misspelt in a branch": around('{"type": "concat", "branches": [[], [{"type": "dropout", "rat": 0.1}]]}'),
};
const completions = {
  "keys of a document": '{"input_shape": [4], |}',
  "types of layers": around('{"type": "|"}'),
  "keys of an affine": around('{"type": "affine", |}'),
  "initializers": around('{"type": "affine", "units": 3, "weight_init": "|"}'),
  "keys of a dropout in a block": around('{"type": "sequential", "layers": [{"type": "dropout", |}]}'),
};
const hovers = {
  "units": around('{"type": "affine", "u|nits": 3}'),
  "a type": around('{"type": "bat|ch_norm"}'),
  "momentum": around('{"type": "batch_norm", "mom|entum": 0.2}'),
};

const parse = (text) => {
  const document = TextDocument.create("file:///m.json", "json", 1, text.replace("|", ""));
  return { document, json: service.parseJSONDocument(document), position: document.positionAt(text.indexOf("|")) };
};

const said = { faults: {}, completions: {}, hovers: {} };
for (const [name, text] of Object.entries(documents)) {
  const { document, json } = parse(text);
  const found = await service.doValidation(document, json, {}, schema);
  said.faults[name] = found.map(({ message, range }) => `${document.getText(range)}: ${message}`);
}
for (const [name, text] of Object.entries(completions)) {
  const { document, json, position } = parse(text);
  const found = await service.doComplete(document, position, json);
  said.completions[name] = found.items.map(({ label }) => label).sort();
}
for (const [name, text] of Object.entries(hovers)) {
  const { document, json, position } = parse(text);
  const found = await service.doHover(document, position, json);
  said.hovers[name] = found ? found.contents : null;
}
console.log(JSON.stringify(said, null, 2));
