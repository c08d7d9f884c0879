import { expect, test } from "bun:test";
import { bindWithValues, describedWithout } from "../../../core/wire/added_parameters.ts";
import { encodeText } from "../../../core/wire/text.ts";

const bind = {
  kind: "Bind",
  portal: "",
  statement: "s",
  parameterFormats: [],
  parameters: [encodeText("a"), null],
  resultFormats: [1],
} as const;

test.each([
  [[], [0, 0, 0]],
  [[0], [0, 0, 0]],
  [[1], [1, 1, 0]],
  [
    [1, 0],
    [1, 0, 0],
  ],
])("formats %j with a value added are %j", (parameterFormats, expected) => {
  const changed = bindWithValues({ ...bind, parameterFormats }, 3, ["now"]);
  expect(changed.parameterFormats).toEqual(expected);
  expect(changed.parameters).toEqual([...bind.parameters, encodeText("now")]);
  expect(changed.resultFormats).toEqual([1]);
});

test("a value that is NULL is NULL", () => {
  expect(bindWithValues(bind, 3, [null]).parameters).toEqual([...bind.parameters, null]);
});

test("a Bind with too few or too many parameters is left for the server to refuse", () => {
  expect(bindWithValues(bind, 4, ["now"])).toBe(bind);
  expect(bindWithValues(bind, 2, ["now"])).toBe(bind);
});

test("the client sees its own parameters alone", () => {
  const description = { kind: "ParameterDescription", parameterTypes: [23, 25, 1184] } as const;
  expect(describedWithout(description, 3).parameterTypes).toEqual([23, 25]);
});
