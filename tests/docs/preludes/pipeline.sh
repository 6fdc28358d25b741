# A pipeline of two steps, and a job in YAML.
mkdir -p steps
printf 'import argparse, pathlib\nparser = argparse.ArgumentParser()\nparser.add_argument("--output")\npathlib.Path(parser.parse_args().output, "made.txt").write_text("made")\n' > steps/make.py
printf 'import argparse, pathlib\nparser = argparse.ArgumentParser()\nparser.add_argument("--input_data")\nprint(*pathlib.Path(parser.parse_args().input_data).iterdir())\n' > steps/look.py
cat > pipeline.json <<'END'
{
    "step1": {"type": "PythonScriptStep", "name": "make", "script": "make.py", "source_directory": "steps", "output": "made"},
    "step2": {"type": "PythonScriptStep", "name": "look", "script": "look.py", "source_directory": "steps", "input_datareference_name": "made"}
}
END
cat > job.yml <<'END'
$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json
command: python train.py --epochs 1
code: .
environment:
  image: docker.io/python:3.11
  conda_file: environment.yml
compute: azureml:gpu
END
