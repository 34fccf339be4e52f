// Shows the OpenAPI document, all from this server. Knows the document's form, nothing of the routes.

function element(name, content = "", className = "") {
  const made = document.createElement(name);
  made.className = className;
  // `code` spans are all the markup that descriptions use.
  content.split("`").forEach((part, index) => made.append(index % 2 ? Object.assign(document.createElement("code"), { textContent: part }) : part));
  return made;
}

const nameOf = (reference) => reference.split("/").pop();

function typeOf(schema) {
  if (schema.$ref) return nameOf(schema.$ref);
  if (schema.oneOf) return schema.oneOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  if (schema.enum) return schema.enum.map((value) => `"${value}"`).join(" | ");
  if (schema.additionalProperties) return `map of ${typeOf(schema.additionalProperties)}`;
  return schema.format || schema.type;
}

function fields(schema) {
  const table = document.createElement("table");
  for (const [name, field] of Object.entries(schema.properties)) {
    const row = document.createElement("tr");
    row.append(...[`\`${name}\``, typeOf(field), field.description || ""].map((content) => element("td", content)));
    table.append(row);
  }
  return table;
}

function operation(path, method, described) {
  const section = document.createElement("section");
  const title = element("h2");
  title.append(element("span", method.toUpperCase(), "method"), element("code", path));
  section.append(title, element("p", described.description || described.summary));
  for (const parameter of described.parameters || []) {
    const { minimum, maximum } = parameter.schema;
    const range = minimum === undefined ? "" : `, ${minimum} to ${maximum}`;
    section.append(element("p", `\`${parameter.name}\` in the ${parameter.in}: ${typeOf(parameter.schema)}${range}`, "hint"));
  }
  const body = described.requestBody?.content["application/json"];
  if (body) section.append(element("h3", `Body: ${typeOf(body.schema)}`), example(path, body.example));
  section.append(element("h3", "Answers"));
  const table = document.createElement("table");
  for (const [status, response] of Object.entries(described.responses)) {
    const row = document.createElement("tr");
    const [media] = Object.values(response.content);
    row.append(...[status, typeOf(media.schema), response.description].map((content) => element("td", content)));
    table.append(row);
  }
  section.append(table);
  return section;
}

function example(path, body) {
  const pre = document.createElement("pre");
  pre.textContent = `curl ${location.origin}${path} -H 'Content-Type: application/json' -d '${JSON.stringify(body)}'`;
  pre.tabIndex = 0;
  return pre;
}

const described = await (await fetch("/openapi.json")).json();
const parts = [element("p", described.info.description)];
for (const [path, operations] of Object.entries(described.paths)) {
  for (const [method, one] of Object.entries(operations)) parts.push(operation(path, method, one));
}
for (const [name, schema] of Object.entries(described.components.schemas)) {
  const section = document.createElement("section");
  section.append(element("h2", name), element("p", schema.description || "", "hint"), fields(schema));
  parts.push(section);
}
document.getElementById("docs").append(...parts);
