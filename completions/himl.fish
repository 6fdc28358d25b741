# Tab completion of himl in fish 3.1 and later, printed by `himl completion fish`.
# himl generates the tables. The functions after them do not depend on them.

function __himl_verbs --description 'The commands below the command $argv[1], with their help'
    switch $argv[1]
        case 'himl'
            printf '%s\t%s\n' \
                'submit' 'Run a script, a module or a shell script as a job' \
                'runs' 'List, show, follow, cancel, tag and delete runs' \
                'ui' 'Show runs in MLflow\'s user interface' \
                'tb' 'Show runs in TensorBoard, including runs in progress' \
                'download' 'Download the files of runs, with MD5 checks' \
                'checkpoint' 'Fetch, push and share checkpoints of runs' \
                'datastore' 'Upload, download and list files in a datastore' \
                'montage' 'Combine slides into one picture' \
                'tiles' 'Cut slides into tiles, with a CSV list' \
                'dsa' 'Upload annotations of slides to a Digital Slide Archive' \
                'init' 'Set up this folder for a local or Azure ML workspace' \
                'workspace' 'Show the workspaces that himl uses' \
                'doctor' 'Check the installation, settings and access' \
                'gc' 'Delete files of the local workspace that no run needs' \
                'completion' 'Set up tab completion in bash, zsh, fish and PowerShell' \
                'skill' 'Print or install a skill file for coding agents' \
                'schema' 'Print the JSON Schema of --json documents'
        case 'himl runs'
            printf '%s\t%s\n' \
                'list' 'List runs, newest first' \
                'show' 'Show the details of runs' \
                'diff' 'Show the differences between two runs' \
                'code' 'List the code that a run was submitted with, or save it' \
                'aggregate' 'Compare metrics of many runs, with statistics' \
                'logs' 'Print the log of a run, even of one in progress' \
                'attach' 'Show the addresses of a running job\'s services' \
                'cancel' 'Cancel runs' \
                'tag' 'Set tags on runs' \
                'archive' 'Hide runs from lists, and keep their files' \
                'restore' 'Show archived runs in lists again' \
                'export' 'Write runs to an archive that himl can import elsewhere' \
                'import' 'Record the runs of an archive in the local workspace' \
                'delete' 'Delete runs with all files and child runs, after a confirmation'
        case 'himl checkpoint'
            printf '%s\t%s\n' \
                'fetch' 'Fetch a checkpoint, and print its path' \
                'push' 'Upload changed checkpoints to a new run, to start jobs from' \
                'url' 'Print a link that gives anyone read access to a checkpoint'
        case 'himl datastore'
            printf '%s\t%s\n' \
                'upload' 'Upload a folder\'s contents, or a file' \
                'download' 'Download files, and verify MD5 checksums' \
                'list' 'List files with their sizes'
        case 'himl dsa'
            printf '%s\t%s\n' \
                'upload' 'Upload attention maps and other annotations to slides' \
                'list' 'List collections, folders and items, or an item\'s annotations'
        case 'himl workspace'
            printf '%s\t%s\n' \
                'show' 'Show the workspaces that himl uses, and their sources'
    end
end

function __himl_rows --description 'The options of the command $argv[1], with their help'
    switch $argv[1]
        case 'himl'
            printf '%s\t%s\n' \
                '--version' 'Show the version and exit' \
                '--help|-h' 'Show this message and exit'
        case 'himl submit'
            printf '%s\t%s\n' \
                '-m=' 'Run a module, like python -m' \
                '--command=' 'Run a command line in place of TARGET' \
                '+--set=' 'Change a job\'s YAML, such as inputs.lr=0.1' \
                '--cluster=choice:local+clusters' 'local (default), Azure ML compute, slurm:PARTITION, ssh:HOST' \
                '--follow|-f' 'Wait and print the log (always for local jobs)' \
                '--wait|--no_wait|-d' 'Wait for the end (default: for local jobs)' \
                '--experiment=experiments' 'Experiment (default: HIML_EXPERIMENT_NAME, else the script\'s name)' \
                '--display_name=' 'Display name of the run' \
                '+--tag|-t=' 'Tag of the run' \
                '+--env_var|-e=' 'Environment variable of the job' \
                '+--input=' 'Input data: [KEY=]NAME[:VERSION][,OPTION=...]' \
                '--gpus=' 'GPUs per node for a local or Slurm job, which waits until they are free' \
                '--processes_per_node=' 'Number of processes (ranks) per node (default: 1)' \
                '--max_run_duration=' 'Maximum duration, such as 30m, 2h (default: none)' \
                '+--sweep=' 'Values of --NAME, such as 0.1,0.01 or uniform(a,b)' \
                '--max_concurrent=' 'Parallel trials (default: 1; with --gpus, as many as fit; all on a cluster)' \
                '--resume=runs' 'Resume a local run, or its missing trials or steps (no TARGET)' \
                '--dry_run' 'Print the job as YAML or Slurm script, without submitting it' \
                '+--sbatch=' 'Option of sbatch on Slurm, such as gres=gpu:2' \
                '+--after=runs' 'Start the Slurm job once this run has completed' \
                '--grace=' 'Time from SIGTERM to the limit of a Slurm job (default: 1m)' \
                '--retries=' 'Restart a failed local or Slurm job up to N times' \
                '--record_in=choice:local,azure' 'Workspace for a local job: local or azure (default: local)' \
                '--in_place' 'Run locally without a snapshot, for debugging' \
                '--tty' 'Run a single local job in a terminal, for breakpoint() and bars' \
                '--queue' 'Wait for a slot of this machine, so that local jobs run one after another' \
                '--num_nodes=' 'Number of nodes' \
                '--distribution=choice:pytorch,mpi' 'pytorch or mpi (default: pytorch for several processes per node, else mpi)' \
                '--no_mpi_single_node' 'Submit a single-process job without MPI' \
                '--shm_size=' 'Shared memory on a cluster' \
                '--instance_type=' 'Instance type, for Kubernetes or serverless' \
                '--job_tier=choice:spot,basic,standard,premium' 'Serverless tier: spot (cheaper, preemptible), basic, standard or premium' \
                '+--docker_args=' 'Arguments for \'docker run\' on a cluster' \
                '--identity=choice:user,managed' 'Azure identity of the job: user or managed' \
                '--vscode' 'Allow VS Code to connect (on a cluster)' \
                '--jupyter' 'Run JupyterLab with the job (on a cluster)' \
                '--ssh_key=files' 'Allow SSH to the job with this public key' \
                '--create_cluster' 'Create a pipeline\'s missing cluster, as in .env' \
                '--python=files' 'Python for local jobs (default: the active one)' \
                '--snapshot_root=folders' 'Root folder (default: the project\'s)' \
                '+--ignored_folders=list+folders' 'More folders to exclude from the snapshot' \
                '+--include_secret=' 'Include files that may hold secrets' \
                '+--conda_env=list+files:.yml,.yaml' 'Conda files (default: the nearest environment.yml, pylock.toml or uv.lock)' \
                '--requirements=files' 'pip requirements file, in place of a Conda file' \
                '--lock=files:.toml,.lock' 'pylock.toml or uv.lock, in place of Conda' \
                '--environment=' 'Registered environment, or azureml://registries/...' \
                '--docker_image=' 'Docker image (default: an Azure ML image)' \
                '--build_context=folders' 'Folder to build the Docker image from' \
                '--dockerfile=files' 'Dockerfile (default: from the build context)' \
                '--pip_extra_index_url=' 'Additional package index for pip' \
                '--private_wheel=files:.whl' 'Additional wheel to install' \
                '--experiment_from_branch' 'Name the experiment after the git branch' \
                '--description=' 'Description of the run' \
                '--build_branch=' 'Git branch' \
                '--build_source_id=' 'Commit id' \
                '--build_source_author=' 'Author of the commit' \
                '--build_source_message=' 'Message of the commit' \
                '--build_source_repository=' 'Repository URL' \
                '--build_number=' 'Build number' \
                '--build_user=' 'User who started the build' \
                '--build_user_email=' 'Email address of that user' \
                '+--output=' 'Output data: [KEY=]NAME[,OPTION=...]' \
                '+--keep=' 'New files to save besides outputs/ and logs/, such as \'models/**\'' \
                '--no_system_metrics' 'Do not record CPU, memory and GPU use of local and Slurm jobs' \
                '--default_datastore=' 'Datastore for inputs and outputs without one' \
                '--checkpoint=runs+files' 'Checkpoint to copy to outputs/checkpoints before the start' \
                '--sampling=choice:grid,random,bayesian' 'grid, random, random(seed=7) or bayesian (default: grid for lists, else random)' \
                '--max_trials=' 'Number of trials (default: the whole grid)' \
                '--max_failures=' 'Start no more trials if the first N to end all fail (default: 3). 0: never stop' \
                '--primary_metric=' 'Metric that ranks trials, or runs in a list' \
                '--goal=choice:minimize,maximize' 'minimize or maximize the primary metric' \
                '--early_stop=choice:median' 'Stop poor trials' \
                '--crossval=' 'Run N splits, with --crossval_index 0 to N-1' \
                '--crossval_arg=' 'Argument for the split\'s index' \
                '--crossval_count_arg=' 'Argument for the number of splits' \
                '--different_seeds=' 'Run N seeds, with --random_seed 0 to N-1' \
                '--seed_arg=' 'Argument for the seed' \
                '--from=runs' 'Submit a run\'s job again (no TARGET)' \
                '--only_args' 'With --from, replace all arguments of the script' \
                '--same_environment' 'With --from, require the packages of the run' \
                '--new_code' 'With --resume, run the project\'s present code' \
                '--notify=' 'Webhook to notify at the end (better set in himl.private.toml)' \
                '--notify_format=choice:json,slack,teams' 'json, slack or teams (default: by the URL\'s host, else json)' \
                '--show_settings' 'Show the value and source of each option, and run nothing' \
                '--sdk=choice:v2,v1' 'Azure ML SDK: v2 or v1 (deprecated)' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs'
            printf '%s\t%s\n' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs list'
            printf '%s\t%s\n' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs|-n=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--archived' 'Only archived runs, which himl otherwise omits' \
                '--watch' 'Show progress and last metrics until all runs end' \
                '--since=' 'Only runs of the last 30m, 2h or 7d, or since a date' \
                '--where=' 'Only runs like \'lr < 0.1 and status = failed\'' \
                '--sort=choice:started,-started,duration,-duration' 'Sort by a metric, parameter, started or duration (default: -started). -KEY: descending' \
                '+--metrics=' 'Show the last values of these metrics' \
                '--best' 'Use best values of metrics instead of last ones' \
                '--goal=choice:minimize,maximize' 'Which values are best (default: by the metric\'s name)' \
                '--params' 'Show parameters and arguments that differ, in a column each' \
                '--size' 'Show the size of each run\'s files, with those of its child runs' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,table,csv,tsv,json,quiet' 'Output format: table, csv, tsv, json or quiet (default: table, tsv in pipes)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--no_pager' 'Print a long result on a terminal without $PAGER' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs show'
            printf '%s\t%s\n' \
                '--machine' 'Add a table of CPU, memory and GPU use' \
                '--environment' 'Add the interpreter, packages, machine and changes of the code' \
                '--watch' 'Show progress, metrics and log until the run ends' \
                '--primary_metric=' 'Rank the trials of a sweep by this metric' \
                '--goal=choice:minimize,maximize' 'Which values are best (default: by the metric\'s name)' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs diff'
            printf '%s\t%s\n' \
                '--code' 'Print changed files as a unified diff' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--no_pager' 'Print a long result on a terminal without $PAGER' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs code'
            printf '%s\t%s\n' \
                '--output_dir|-o=folders' 'Save the files in a new or empty folder' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs aggregate'
            printf '%s\t%s\n' \
                '--child_arg=' 'Tag or argument that names the columns' \
                '+--metrics=' 'Only metrics with these names' \
                '--system' 'Metrics of the machine (system/...), alone or with --metrics' \
                '--stats|--no_stats' 'Show mean, std, min, max and median' \
                '--output_csv=files' 'Save the table as CSV' \
                '--output_parquet=files' 'Save all points as Parquet, one per row' \
                '--plot=files' 'Save curves over all runs as .png or .svg' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,table,csv,tsv,json,quiet' 'Output format: table, csv, tsv, json or quiet (default: table, tsv in pipes)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs logs'
            printf '%s\t%s\n' \
                '--follow|-f' 'Print new lines until the run ends' \
                '--tail=' 'Print the last N lines, and with --follow new ones' \
                '--since=' 'Print what was written in the last 30m, 2h or 7d, or since a date' \
                '--file=' 'Log file to print, such as std_log_process_1.txt' \
                '--try=' 'Log of the Nth attempt' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs attach'
            printf '%s\t%s\n' \
                '--service=' 'Name or kind of a service: vscode, jupyterlab, ssh, ...' \
                '--node=' 'Node of the services, from 0' \
                '--open' 'Open the services in the browser' \
                '--ssh' 'Log in with ssh' \
                '--stdio' 'Act as the ProxyCommand of ssh, scp or rsync' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs cancel'
            printf '%s\t%s\n' \
                '--force' 'Also cancel runs that may have ended' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs tag'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs archive'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs restore'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs export'
            printf '%s\t%s\n' \
                '--to=files:.zip' 'New .zip file or folder.  [required]' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs import'
            printf '%s\t%s\n' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs delete'
            printf '%s\t%s\n' \
                '--outputs' 'Also delete registered output data on Azure ML' \
                '--force' 'Also delete runs that may be in progress' \
                '--pointer_only' 'Forget runs on a machine by SSH' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--yes' 'Do it without asking' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--help|-h' 'Show this message and exit'
        case 'himl ui'
            printf '%s\t%s\n' \
                '--port=' 'Port, or else the next free one' \
                '--host=' 'Host' \
                '--open' 'Open the page in the browser' \
                '--no_token' 'Admit all who can reach the port, for example a proxy' \
                '--read_only' 'Refuse all changes' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl tb'
            printf '%s\t%s\n' \
                '--log_dir=' 'Folder inside a run, or else the whole run' \
                '--run_logs_dir=folders' 'Folder for copies' \
                '--follow_links' 'Include files of links that lead out of a run' \
                '--refresh=' 'Interval of checks for new runs and files' \
                '--sync_only' 'Fetch once, print the folders, and exit' \
                '--port=' 'Port, or else the next free one' \
                '--host=' 'Host' \
                '--open' 'Open the page in the browser' \
                '--no_token' 'Admit all who can reach the port, for example a proxy' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl download'
            printf '%s\t%s\n' \
                '--prefix=' 'Only names with this prefix, or one file' \
                '--output_key=' 'Output dataset of the run, instead of its artifacts' \
                '--list' 'List the files without downloading them' \
                '+--include=' 'Only matching names, such as \'*.ckpt\'' \
                '+--exclude=' 'No matching names, such as \'tmp/**\'' \
                '--output_dir|-o=folders' 'Save files as DIR/RUN_ID/NAME' \
                '--flat' 'Save files as DIR/NAME (one run only)' \
                '--strip_prefix' 'Remove the folders of the prefix from names' \
                '--follow_links' 'Include files of links that lead out of a run' \
                '--overwrite' 'Replace files that differ' \
                '--no_validate' 'Do not compare MD5 checksums' \
                '--workers=' 'Parallel transfers, 1 to 256' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl checkpoint'
            printf '%s\t%s\n' \
                '--help|-h' 'Show this message and exit'
        case 'himl checkpoint fetch'
            printf '%s\t%s\n' \
                '--select=choice:last,best' 'Checkpoint of a run (default: last)' \
                '--metric=' 'Metric for \'best\', in file names or logged' \
                '--goal=choice:minimize,maximize' 'Goal for the metric (default: by its name)' \
                '--name_offset=' 'Epochs in names minus logged ones (default: by comparison)' \
                '--output_dir|-o=folders' 'Destination folder' \
                '--overwrite' 'Replace files that differ' \
                '--workers=' 'Parallel transfers, 1 to 256' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'Runs of this experiment, newest first' \
                '--num_runs=choice:all' 'Number of runs, or all' \
                '+--tags|-t=' 'Only runs with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only Queued, Running, Completed, Failed or Canceled runs' \
                '--latest_run_file=files' 'File with a run id' \
                '--children' 'Select their child runs instead' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl checkpoint push'
            printf '%s\t%s\n' \
                '--from=runs' 'Original run of the checkpoints.  [required]' \
                '--experiment=experiments' 'Experiment (default: that of --from)' \
                '--display_name=' 'Display name of the run' \
                '+--tag|-t=' 'Tag of the run' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl checkpoint url'
            printf '%s\t%s\n' \
                '--select=choice:last,best' 'Checkpoint of a run (default: last)' \
                '--metric=' 'Metric for \'best\', in file names or logged' \
                '--goal=choice:minimize,maximize' 'Goal for the metric (default: by its name)' \
                '--name_offset=' 'Epochs in names minus logged ones (default: by comparison)' \
                '--expiry_days=' 'Validity in days, up to 365' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl datastore'
            printf '%s\t%s\n' \
                '--help|-h' 'Show this message and exit'
        case 'himl datastore upload'
            printf '%s\t%s\n' \
                '+--include=' 'Only matching names, such as \'*.ckpt\'' \
                '+--exclude=' 'No matching names, such as \'tmp/**\'' \
                '--overwrite' 'Replace files that differ' \
                '--no_validate' 'Do not compare MD5 checksums' \
                '--workers=' 'Parallel transfers, 1 to 256' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--datastore=' 'Datastore (default: the workspace\'s default)' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl datastore download'
            printf '%s\t%s\n' \
                '+--include=' 'Only matching names, such as \'*.ckpt\'' \
                '+--exclude=' 'No matching names, such as \'tmp/**\'' \
                '--overwrite' 'Replace files that differ' \
                '--no_validate' 'Do not compare MD5 checksums' \
                '--workers=' 'Parallel transfers, 1 to 256' \
                '--strip_prefix' 'Remove the folders of the prefix from names' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--datastore=' 'Datastore (default: the workspace\'s default)' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl datastore list'
            printf '%s\t%s\n' \
                '+--include=' 'Only matching names, such as \'*.ckpt\'' \
                '+--exclude=' 'No matching names, such as \'tmp/**\'' \
                '--null' 'Print null-terminated names only, for xargs -0' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--datastore=' 'Datastore (default: the workspace\'s default)' \
                '--format=choice:human,table,csv,tsv,json,quiet' 'Output format: table, csv, tsv, json or quiet (default: table, tsv in pipes)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl montage'
            printf '%s\t%s\n' \
                '--dataset=folders+files:.csv' 'DATASET, as an option' \
                '--image_glob=' 'Files in the folder, such as \'**/*.tiff\' (default: all)' \
                '--include_by_slide_id=files' 'Only slides with ids in this text or CSV file' \
                '--exclude_by_slide_id=files' 'Only slides with ids not in this file' \
                '--datastore=' 'Datastore of the folder or CSV' \
                '--width=' 'Width without hi-ml\'s lines (default: by the slides; hi-ml layout: 60000)' \
                '--level=choice:auto' 'Level of the slides, 0 the finest, or auto' \
                '--mpp=' 'Scale of all slides, in micrometres per pixel' \
                '--assume_mpp=' 'Micrometres per pixel of level 0 of slides without a scale' \
                '--layout=choice:fit,hi-ml' 'fit keeps the slides\' shapes, hi-ml stretches them' \
                '+--image_format=list+choice:png,jpg,dzi' 'png, jpg, dzi (a zoomable page)' \
                '--output_path=folders' 'Destination folder' \
                '--backend=choice:auto,tifffile,openslide,cucim' 'Slide reader: auto, tifffile, openslide or cucim' \
                '--workers=' 'Threads, 1 to 256 (default: one per core)' \
                '--strict' 'Exit with 1 if a slide is unreadable' \
                '--cluster=choice:local+clusters' 'Azure ML compute, or local' \
                '+--conda_env=list+files:.yml,.yaml' 'Conda files of the job\'s environment' \
                '--private_wheel=files:.whl' 'himl wheel to install in the job' \
                '--shm_size=' 'Shared memory (default: 100g)' \
                '--experiment=experiments' 'Experiment (default: the command\'s name)' \
                '--display_name=' 'Display name of the run' \
                '--wait' 'Wait for the job to end' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl tiles'
            printf '%s\t%s\n' \
                '--image_glob=' 'Files in the folder, such as \'**/*.tiff\' (default: all)' \
                '--include_by_slide_id=files' 'Only slides with ids in this text or CSV file' \
                '--exclude_by_slide_id=files' 'Only slides with ids not in this file' \
                '--datastore=' 'Datastore of the folder or CSV' \
                '--tile_size=' 'Width and height of a tile' \
                '--overlap=' 'Overlap of adjacent tiles' \
                '--level=choice:auto' 'Level of the slides, 0 the finest' \
                '--mpp=' 'Scale of the tiles, in micrometres per pixel' \
                '--magnification=' 'Scale of the tiles, as a magnification' \
                '--assume_mpp=' 'Micrometres per pixel of level 0 of slides without a scale' \
                '--occupancy=' 'Minimum share of foreground in a tile, from 0 (all tiles) to 1' \
                '--foreground=choice:saturation,otsu,mask' 'Foreground: saturation, otsu, threshold=N or mask' \
                '--masks' 'Short for --foreground mask' \
                '--mask_threshold=' 'Greatest value of a mask that is background (default: 0; JPEG: 127)' \
                '--mask_tiles' 'Save the mask of each tile beside it' \
                '--quality' 'Add the quality of each tile to dataset.csv' \
                '--regions=files' 'Only tiles in regions of this GeoJSON or XML, or of a folder of them' \
                '--labels=files' 'CSV with labels and other columns of the slides, for dataset.csv' \
                '--on=' 'Its column with the ids of slides (default: slide_id, image_id or slide)' \
                '--max_tiles=' 'Maximum number of tiles per slide, chosen at random' \
                '--seed=' 'Seed of that choice' \
                '--image_format=choice:png,jpg' 'Image format: png or jpg' \
                '--overview' 'Save pictures of the slides with tiles marked, and a page of all' \
                '--dry_run' 'Only count the tiles and their bytes' \
                '--output_path=folders' 'Destination folder' \
                '--backend=choice:auto,tifffile,openslide,cucim' 'Slide reader: auto, tifffile, openslide or cucim' \
                '--workers=' 'Threads, 1 to 256 (default: one per core)' \
                '--strict' 'Exit with 1 if a slide is unreadable' \
                '--cluster=choice:local+clusters' 'Azure ML compute, or local' \
                '+--conda_env=list+files:.yml,.yaml' 'Conda files of the job\'s environment' \
                '--private_wheel=files:.whl' 'himl wheel to install in the job' \
                '--shm_size=' 'Shared memory (default: 100g)' \
                '--experiment=experiments' 'Experiment (default: the command\'s name)' \
                '--display_name=' 'Display name of the run' \
                '--wait' 'Wait for the job to end' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet,files,tar' 'Form of the tiles: files, or tar for one tar per slide (default: files)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl dsa'
            printf '%s\t%s\n' \
                '--help|-h' 'Show this message and exit'
        case 'himl dsa upload'
            printf '%s\t%s\n' \
                '--run=list+runs' 'Run that contains FILE' \
                '--id_filter=' 'Only slides with this text in their id' \
                '--kind=choice:rectangles,heatmap' 'Annotations of a CSV: rectangles or heatmap' \
                '--value=' 'Column of values in the CSV' \
                '--no_rescale' 'Color scale from 0 to 1 (default: each slide\'s range)' \
                '--name=' 'Name of the annotation (default: FILE, or the run\'s id and name)' \
                '--url=' 'Address of the archive (default: DSA_URL)' \
                '--folder=' 'Only slides in this folder of the archive' \
                '--item=' 'Name or id of the item, in place of the slide\'s id' \
                '--overwrite' 'Replace an annotation that differs' \
                '--dry_run' 'Print the annotations as JSON without uploading' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl dsa list'
            printf '%s\t%s\n' \
                '--url=' 'Address of the archive (default: DSA_URL)' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl init'
            printf '%s\t%s\n' \
                '--from=files' 'Settings to import (see above)' \
                '--subscription_id=' 'Subscription of the workspace' \
                '--resource_group=' 'Resource group of the workspace' \
                '--workspace_name=' 'Name of the workspace' \
                '--local' 'Create a local workspace (.himl) in this folder' \
                '--slurm' 'Write the Slurm partitions to himl.toml' \
                '--ssh=' 'Install himl on a machine that you reach by SSH' \
                '--python=files' 'Python there, for --ssh (default: one that himl finds)' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl workspace'
            printf '%s\t%s\n' \
                '--help|-h' 'Show this message and exit'
        case 'himl workspace show'
            printf '%s\t%s\n' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
        case 'himl doctor'
            printf '%s\t%s\n' \
                '--live' 'Check himl\'s assumptions with short jobs on Azure ML' \
                '--cluster=choice:local+clusters' 'Cluster of the jobs' \
                '+--check=list+choice:job,same-code,failed-job,cancel,job-name,job-members,sweep,pipeline,nodes,output,limits,environment,connection,secrets,run-pages,run-order,run-filters,metrics,files,delete' 'Only these checks, separated by commas' \
                '--environment=' 'Registered environment of the jobs' \
                '--keep' 'Keep the jobs, for further checks' \
                '--slurm=' 'Also submit a short test job to --cluster slurm:NAME' \
                '--ssh=' 'Check a machine that you reach by SSH instead' \
                '--yes' 'Do it without asking' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--help|-h' 'Show this message and exit'
        case 'himl gc'
            printf '%s\t%s\n' \
                '--older_than=' 'Also artifacts of runs that ended longer ago than 30d, or before a date' \
                '--yes' 'Do it without asking' \
                '--workspace|-w=choice:local+machines+folders+files:.json' 'local, a .himl folder, ssh:HOST or a config.json (default: the nearest)' \
                '--config_file=files:.json' 'Azure ML config.json' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--help|-h' 'Show this message and exit'
        case 'himl completion'
            printf '%s\t%s\n' \
                '--yes' 'Do it without asking' \
                '--install' 'Install the script for the shell' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--help|-h' 'Show this message and exit'
        case 'himl skill'
            printf '%s\t%s\n' \
                '--install' 'Write it to this project\'s folders for agents' \
                '--yes' 'Do it without asking' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--help|-h' 'Show this message and exit'
        case 'himl schema'
            printf '%s\t%s\n' \
                '--format=choice:human,json,quiet' 'Output format: human, json or quiet (default: human)' \
                '--json' 'Print one JSON document on stdout' \
                '--quiet|-q' 'Print only ids or paths on stdout' \
                '--verbose|-v' 'Print a debug log and tracebacks on stderr' \
                '--yes' 'Answer yes to all questions' \
                '--help|-h' 'Show this message and exit'
    end
end

function __himl_kinds --description 'What the plain arguments of the command $argv[1] are'
    switch $argv[1]
        case 'himl submit'
            printf '%s\n' \
                'files:.py,.sh,.yml,.yaml,.json'
        case 'himl runs show'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs diff'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs code'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs aggregate'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs logs'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs attach'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs cancel'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs tag'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs archive'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs restore'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs export'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs import'
            printf '%s\n' \
                'files:.zip'
        case 'himl runs delete'
            printf '%s\n' \
                'list+runs...'
        case 'himl tb'
            printf '%s\n' \
                'list+runs...'
        case 'himl download'
            printf '%s\n' \
                'list+runs...'
        case 'himl checkpoint fetch'
            printf '%s\n' \
                'runs+files'
        case 'himl checkpoint push'
            printf '%s\n' \
                'files...'
        case 'himl checkpoint url'
            printf '%s\n' \
                'runs+files'
        case 'himl datastore upload'
            printf '%s\n' \
                'files' \
                'text'
        case 'himl datastore download'
            printf '%s\n' \
                'text' \
                'folders'
        case 'himl datastore list'
            printf '%s\n' \
                'text'
        case 'himl montage'
            printf '%s\n' \
                'folders+files:.csv'
        case 'himl tiles'
            printf '%s\n' \
                'folders+files:.csv'
        case 'himl dsa upload'
            printf '%s\n' \
                'files:.csv,.geojson,.json'
        case 'himl dsa list'
            printf '%s\n' \
                'text'
        case 'himl completion'
            printf '%s\n' \
                'choice:bash,zsh,fish,powershell'
        case 'himl schema'
            printf '%s\n' \
                'text...'
    end
end

function __himl_today --description 'The option $argv[1], which may have one of hi-ml\'s names, by today\'s'
    switch $argv[1]
        case --compute_cluster_name
            echo -- --cluster
        case --config_path
            echo -- --config_file
        case --crossval_count
            echo -- --crossval
        case --docker_shm_size
            echo -- --shm_size
        case --dsa_url
            echo -- --url
        case --experiment_name
            echo -- --experiment
        case --files_to_download
            echo -- --prefix
        case --image_glob_pattern
            echo -- --image_glob
        case --parallel
            echo -- --workers
        case --run_id
            echo -- --run
        case --run_ids
            echo -- --run
        case --run_recovery_ids
            echo -- --run
        case --wait_for_completion
            echo -- --wait
        case --workspace_config
            echo -- --config_file
        case --workspace_config_path
            echo -- --config_file
        case '*'
            echo -- $argv[1]
    end
end

function __himl_find --argument-names where word --description 'The row of an option in any spelling, or nothing'
    set -l name (string replace -r '=.*' '' -- $word)
    if string match -q -- '--*' $name
        set name (string replace -a -- - _ (string sub -s 3 -- $name))
        set name (__himl_today "--$name")
    else
        set name (string sub -l 2 -- $name)
    end
    set name (string escape --style=regex -- $name)
    __himl_rows $where | string match -r -- '^\+?(?:[^=\t]*\|)?'$name'(?:\|[^=\t]*)?(?:=[^\t]*)?(?=\t)'
end

function __himl_paths --argument-names head begun suffixes --description 'Folders and files whose ends match'
    for line in (complete -C "'' $begun")
        set -l path (string split -m 1 \t -- $line)[1]
        if string match -q -r -- $suffixes $path
            echo -- $head$path
        end
    end
end

function __himl_value --argument-names kind begun head --description 'Values of a kind; the words of the line follow'
    set -l words $argv[4..-1]
    if string match -q 'list+*' -- $kind; and string match -q '*,*' -- $begun
        set head $head(string replace -r '[^,]*$' '' -- $begun)
        set begun (string replace -r '^.*,' '' -- $begun)
    end
    for part in (string split + -- $kind)
        switch $part
            case 'choice:*'
                for each in (string split , -- (string replace choice: '' -- $part))
                    echo -- $head$each
                end
            case runs experiments clusters machines
                set -l program (string replace -r '^~/' "$HOME/" -- $words[1])
                for each in (command $program --complete "$part="(string unescape -- $begun) $words 2>/dev/null </dev/null)
                    echo -- $head$each
                end
            case folders
                __himl_paths $head $begun '/$'
            case 'files:*'
                set -l suffixes (string replace -a , '|' -- (string escape --style=regex -- (string replace files: '' -- $part)))
                __himl_paths $head $begun "(/|$suffixes)\$"
            case files
                __himl_paths $head $begun ''
        end
    end
end

function __himl_options --argument-names where current --description 'Options in the spelling typed, less those given that do not repeat'
    set -l used $argv[3..-1]
    set -l begun '^'(string escape --style=regex -- "$current")
    for line in (__himl_rows $where)
        set -l pair (string split -m 1 \t -- $line)
        if not string match -q '+*' -- $pair[1]; and contains -- $pair[1] $used
            continue
        end
        for name in (string split '|' -- (string replace -r '=.*' '' -- (string replace -r '^\+' '' -- $pair[1])))
            if string match -q -r -- '^--[^-]*-' $current; and string match -q -- '--*' $name
                set name --(string replace -a -- _ - (string sub -s 3 -- $name))
            end
            if string match -q -r -- $begun $name
                echo -- $name\t$pair[2]
            end
        end
    end
end

function __himl_complete --description 'What may stand at the cursor'
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l where himl
    set -l verbs (__himl_verbs $where)
    set -l used
    set -l pending
    set -l place 1
    for word in $words[2..-1]
        if set -q pending[1]
            set pending
        else if test "$word" = --
            __himl_value files "$current" '' $words "$current"
            return
        else if string match -q -r -- '^-.' $word
            set -l row (__himl_find $where $word)
            set used $used $row
            if string match -q -- '*=*' $row; and not string match -q -r -- '^--.*=|^-[^-].' $word
                set pending $row
            end
        else if set -q verbs[1]
            set where "$where $word"
            set verbs (__himl_verbs $where)
        else
            set place (math $place + 1)
        end
    end
    if set -q pending[1]
        __himl_value (string replace -r '^[^=]*=' '' -- $pending) "$current" '' $words "$current"
    else if string match -q -- '--*=*' $current
        set -l row (__himl_find $where $current)
        set -l parts (string split -m 1 = -- $current)
        if string match -q -- '*=*' $row
            __himl_value (string replace -r '^[^=]*=' '' -- $row) "$parts[2]" "$parts[1]=" $words "$current"
        end
    else if string match -q -- '-*' $current
        __himl_options $where $current $used
    else if set -q verbs[1]
        printf '%s\n' $verbs
    else
        set -l kinds (__himl_kinds $where)
        set -l due $kinds[$place]
        if not set -q due[1]; and string match -q -- '*...' $kinds[-1]
            set due $kinds[-1]
        end
        if set -q due[1]
            __himl_value (string replace -r '\.\.\.$' '' -- $due) "$current" '' $words "$current"
        else if test -z "$current"
            __himl_options $where '' $used
        end
    end
end

complete -c himl -e
complete -c himl -k -f -a '(__himl_complete)'
