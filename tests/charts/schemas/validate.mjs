// Holds objects against the types and schemas of @kubernetes-models: `validate.mjs TOOLS < JSON`.
// The schemas know patterns and what is required; the types know which fields there are.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const tools = process.argv[2];
const require = createRequire(join(tools, "package.json"));
const ts = require("typescript");
const HOMES = {
  HTTPRoute: "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
  ServiceMonitor: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
  ScaledObject: "@kubernetes-models/keda/keda.sh/v1alpha1",
};

const objects = JSON.parse(readFileSync(0, "utf8"));
const problems = [];
for (const object of objects) {
  const [home, ...path] = HOMES[object.kind].match(/^(@[^/]+\/[^/]+)|[^/]+/g);
  const file = join(tools, "node_modules", home, ...path, "index.js");
  const Model = (await import(pathToFileURL(file)))[object.kind];
  try {
    new Model(object).validate();
  } catch (error) {
    problems.push(`${object.kind}: ${error.message}`);
  }
}

const name = join(tools, "objects.ts");
const source = objects
  .map(
    (object, index) =>
      `import type { I${object.kind} as T${index} } from "${HOMES[object.kind]}";\n` +
      `export const o${index}: T${index} = ${JSON.stringify(object)};\n`,
  )
  .join("");
const options = {
  noEmit: true,
  strict: true,
  skipLibCheck: true,
  types: [],
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
};
const host = ts.createCompilerHost(options);
const plain = host.getSourceFile.bind(host);
host.getSourceFile = (file, target) =>
  file === name ? ts.createSourceFile(file, source, target) : plain(file, target);
host.fileExists = ((exists) => (file) => file === name || exists(file))(host.fileExists);
const program = ts.createProgram([name], options, host);
for (const found of ts.getPreEmitDiagnostics(program)) {
  problems.push(`types: ${ts.flattenDiagnosticMessageText(found.messageText, " ")}`);
}
process.stdout.write(JSON.stringify(problems));
