#!/usr/bin/env bash
# nbclient 0.11.0 with `store_widget_state=False`: a cell that prints into an ipywidgets Output, or makes an
# interactive_output, ends the whole run with KeyError of the widget's id, though no cell is wrong. The hook that
# collects the output writes into the widget state that was switched off. With the state kept, the cell runs.
# Fails when the version behaves differently.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  "nbclient==0.11.0" "nbformat==5.11.1" "ipykernel==7.4.0" "ipywidgets==8.1.9"
cat > "$folder/program.py" <<'PYTHON'
import sys
import warnings

import nbformat
from nbclient import NotebookClient

warnings.simplefilter("ignore")
code = "import ipywidgets\nshown = ipywidgets.Output()\nwith shown:\n    print('caught')"
for keep in (True, False):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    try:
        NotebookClient(notebook, kernel_name="python3", store_widget_state=keep).execute()
        print("state kept:", keep, "-> runs")
    except Exception as error:
        print("state kept:", keep, "->", type(error).__name__)
PYTHON
output=$(cd "$folder" && PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" program.py 2>/dev/null)
echo "$output"
[[ "$output" == *"state kept: True -> runs"*"state kept: False -> KeyError"* ]]
echo "as described"
