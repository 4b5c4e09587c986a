#!/usr/bin/env bash
# Makes $DATASET_DIR/financial-alpaca.json: the first 17,153 records of gbharti/finance-alpaca on the Hugging Face Hub.
# Started again after a lost connection, it goes on where it stopped. HF_ENDPOINT names a mirror of the Hub.
set -euo pipefail

folder=${DATASET_DIR:-/tmp/dataset}
hub=${HF_ENDPOINT:-https://huggingface.co}
address=${hub%/}/datasets/gbharti/finance-alpaca/resolve/main/Cleaned_date.json
records=17153
made=$folder/financial-alpaca.json
part=$folder/.financial-alpaca.part

fail() {
  echo "error: $1" >&2
  exit 1
}

# The last value of a header, since the Hub redirects.
header() {
  tr -d '\r"' <<<"$headers" | awk -F': *' -v name="$1" 'tolower($1) == name { value = $2 } END { print value }'
}

size() { wc -c <"$1" | tr -d ' '; }

for program in curl python3 sha256sum; do
  command -v "$program" >/dev/null || fail "$program is not installed, and is needed"
done
if [ -e "$made" ]; then
  echo "$made is there already; delete it to make it anew"
  exit 0
fi
mkdir -p "$folder"
# In a folder that others may write to somebody could have it lead to a file of yours.
for file in "$part" "$part.new"; do
  [ ! -L "$file" ] || fail "$file is a link, which this program does not make; delete it"
done

headers=$(curl --fail --silent --show-error --location --head "$address") ||
  fail "$address cannot be reached; check the connection, https_proxy, or name a mirror as HF_ENDPOINT"
expected_size=$(header x-linked-size)
expected_size=${expected_size:-$(header content-length)}
digest=$(header x-linked-etag)

if [ ! -e "$part" ] || [ "$(size "$part")" != "$expected_size" ]; then
  curl --fail --location --progress-bar --retry 5 --retry-connrefused --continue-at - --output "$part" "$address" ||
    fail "the download broke off; start again to go on from $part"
fi

# What is wrong as a whole is no part of the right file either: nothing to go on from.
if [ -n "$expected_size" ] && [ "$(size "$part")" != "$expected_size" ]; then
  found=$(size "$part")
  rm "$part"
  fail "$address: got $found bytes, expected $expected_size; start again"
fi
if [[ $digest =~ ^[0-9a-f]{64}$ ]] && ! sha256sum --check --status <<<"$digest  $part"; then
  rm "$part"
  fail "$address: what came is not what the Hub says it has (SHA-256 $digest); start again"
fi

python3 - "$part" "$made" "$records" <<'PYTHON' || { rm -f "$part" "$part.new"; fail "$address is not the data set that was expected"; }
import json
import os
import sys

part, made, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
try:
    records = json.load(open(part, encoding="utf-8"))
except ValueError as error:
    sys.exit(f"error: not JSON: {error}")
if not isinstance(records, list) or len(records) < wanted:
    sys.exit(f"error: expected a list of at least {wanted} records")
with open(f"{part}.new", "w", encoding="utf-8") as aside:
    for number, record in enumerate(records[:wanted]):
        for column in ("instruction", "output"):
            if not isinstance(record, dict) or not isinstance(record.get(column), str):
                sys.exit(f"error: record {number}: expected a text in the column {column}")
        aside.write(json.dumps(record, ensure_ascii=False) + "\n")
os.replace(f"{part}.new", made)
PYTHON
rm "$part"
echo "$made: $records records"
