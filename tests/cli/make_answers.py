"""Write `finetune_hub/cli/answers.py`: what the API answers, as the command line's client reads it.

    make answers

Made from docs/openapi.yaml, whose being current a test of its own proves. Left out are limits, formats and words of an
enumeration: a newer hub may know more of them, and an older client then prints them as they are.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from datamodel_code_generator import PythonVersion, generate
from datamodel_code_generator.enums import DataModelType, InputFileType

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "finetune_hub/cli/answers.py"
# The answers that the client asks for; parts of them come along. To read another one, add it here.
WANTED = """
    AdapterDetail AdapterVersionDetail Adapter AddedVersion Alias BaseModelDetail BaseModel Dataset DatasetVersionDetail
    ErrorBody FoundRows HuggingFaceToken ImportedBaseModel Job JobDetail JobEvent KnownTemplates Log Me MetricPoint
    Deletion Outlook Quota Quotas
    RowPreview SplitParts TokenStatistics Upload Usage Worker
""".split()
HEADER = (
    '"""What the API answers. Made by `make answers` from docs/openapi.yaml: change the API\'s serializers instead."""'
)
KEPT = {"type", "properties", "required", "items", "additionalProperties", "oneOf", "$ref"}
REFERENCE = "#/components/schemas/"


def main() -> None:
    TARGET.write_text(source())
    for command in (["check", "--fix", "--quiet"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, str(TARGET)], check=True)


def source() -> str:
    """The module, not yet formatted."""
    schemas = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())["components"]["schemas"]
    picked: dict[str, Any] = {}
    wanted = list(WANTED)
    while wanted:
        name = wanted.pop()
        picked[name] = simplified(schemas[name], schemas)
        wanted += set(re.findall(rf"{REFERENCE}(\w+)", json.dumps(picked[name]))) - picked.keys()
    document = {
        "openapi": "3.1.1",
        "info": {"title": "finetune_hub", "version": "1"},
        "paths": {},
        "components": {"schemas": dict(sorted(picked.items()))},
    }
    made = generate(
        json.dumps(document),
        input_file_type=InputFileType.OpenAPI,
        output_model_type=DataModelType.PydanticV2BaseModel,
        base_class="finetune_hub.spec.answer.Answer",
        target_python_version=PythonVersion.PY_311,
        custom_file_header=HEADER,
        use_standard_collections=True,
        use_union_operator=True,
        formatters=[],
    )
    assert isinstance(made, str)
    return made


def simplified(schema: Any, schemas: dict[str, Any]) -> Any:
    """The schema without what a client does not hold a newer hub to."""
    if isinstance(schema, list):
        return [simplified(part, schemas) for part in schema]
    if not isinstance(schema, dict):
        return schema
    alternatives = [schema, *schema.get("oneOf", []), *schema.get("allOf", [])]
    referred = [schemas[part["$ref"].removeprefix(REFERENCE)] for part in alternatives if "$ref" in part]
    if "enum" in schema or (referred and all("enum" in other for other in referred)):
        return {"type": ["string", "null"] if {"type": "null"} in alternatives else "string"}
    kept = {key: simplified(part, schemas) for key, part in schema.items() if key in KEPT - {"properties"}}
    if "properties" in schema:
        kept["properties"] = {name: simplified(part, schemas) for name, part in schema["properties"].items()}
    return kept


if __name__ == "__main__":
    main()
