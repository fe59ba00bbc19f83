#!/usr/bin/env bash
# typer 0.29.2 carries a copy of click: its errors are no longer click's, and `except click.UsageError`, right up to
# typer 0.16 with click 8.1.8, catches nothing any more. No message says so; a program that turned usage errors into
# its own lines prints typer's box again. Fails when either version behaves differently.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/program.py" <<'PYTHON'
import click
import typer
from typer.core import TyperGroup


class Group(TyperGroup):
    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            print("caught:", error.format_message())
            raise typer.Exit(3)


app = typer.Typer(cls=Group)


@app.command()
def draw(steps: int):
    print(steps)


@app.command()
def other():
    pass


print("typer's error is click's:", issubclass(typer.BadParameter, click.UsageError), flush=True)
app(["draw", "many"])
PYTHON
check() { # typer's version, click's version, expected first line, expected exit status, expected to be caught
  python3 -m venv "$folder/$1"
  "$folder/$1/bin/python" -m pip install --quiet --disable-pip-version-check "typer==$1" "click==$2" 2>/dev/null
  status=0
  output=$("$folder/$1/bin/python" "$folder/program.py" 2>&1) || status=$?
  echo "typer $1, click $2, exit status $status:"
  echo "$output"
  [[ "$output" == "$3"* && $status == "$4" ]]
  if [[ $5 == yes ]]; then [[ "$output" == *"caught: "* ]]
  else [[ "$output" != *"caught: "* && "$output" == *"Usage: "* ]]; fi
}
check 0.16.0 8.1.8 "typer's error is click's: True" 3 yes
check 0.29.2 8.5.1 "typer's error is click's: False" 2 no
echo "as described"
