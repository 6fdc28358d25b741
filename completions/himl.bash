# Tab completion of himl in Bash 3.2 and later, printed by `himl completion bash`.
# himl generates the table. The functions after it do not depend on it.

_himl_table() {
    # The subcommands (verbs), options (rows) and kinds of arguments of the command $1.
    verbs='' rows='' kinds=''
    case $1 in
    'himl')
        verbs='submit runs ui tb download checkpoint datastore montage tiles dsa init workspace doctor gc completion skill schema'
        rows='
            --version
            --help|-h
        '
        ;;
    'himl submit')
        rows='
            -m=
            --command=
            +--set=
            --cluster=choice:local+clusters
            --follow|-f
            --wait|--no_wait|-d
            --experiment=experiments
            --display_name=
            +--tag|-t=
            +--env_var|-e=
            +--input=
            --gpus=
            --processes_per_node=
            --max_run_duration=
            +--sweep=
            --max_concurrent=
            --resume=runs
            --dry_run
            +--sbatch=
            +--after=runs
            --grace=
            --retries=
            --record_in=choice:local,azure
            --in_place
            --tty
            --queue
            --num_nodes=
            --distribution=choice:pytorch,mpi
            --no_mpi_single_node
            --shm_size=
            --instance_type=
            --job_tier=choice:spot,basic,standard,premium
            +--docker_args=
            --identity=choice:user,managed
            --vscode
            --jupyter
            --ssh_key=files
            --create_cluster
            --python=files
            --snapshot_root=folders
            +--ignored_folders=list+folders
            +--include_secret=
            +--conda_env=list+files:.yml,.yaml
            --requirements=files
            --lock=files:.toml,.lock
            --environment=
            --docker_image=
            --build_context=folders
            --dockerfile=files
            --pip_extra_index_url=
            --private_wheel=files:.whl
            --experiment_from_branch
            --description=
            --build_branch=
            --build_source_id=
            --build_source_author=
            --build_source_message=
            --build_source_repository=
            --build_number=
            --build_user=
            --build_user_email=
            +--output=
            +--keep=
            --no_system_metrics
            --default_datastore=
            --checkpoint=runs+files
            --sampling=choice:grid,random,bayesian
            --max_trials=
            --max_failures=
            --primary_metric=
            --goal=choice:minimize,maximize
            --early_stop=choice:median
            --crossval=
            --crossval_arg=
            --crossval_count_arg=
            --different_seeds=
            --seed_arg=
            --from=runs
            --only_args
            --same_environment
            --new_code
            --notify=
            --notify_format=choice:json,slack,teams
            --show_settings
            --sdk=choice:v2,v1
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='files:.py,.sh,.yml,.yaml,.json'
        ;;
    'himl runs')
        verbs='list show diff code aggregate logs attach cancel tag archive restore export import delete'
        rows='
            --help|-h
        '
        ;;
    'himl runs list')
        rows='
            --experiment=experiments
            --num_runs|-n=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --archived
            --watch
            --since=
            --where=
            --sort=choice:started,-started,duration,-duration
            +--metrics=
            --best
            --goal=choice:minimize,maximize
            --params
            --size
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,table,csv,tsv,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --no_pager
            --help|-h
        '
        ;;
    'himl runs show')
        rows='
            --machine
            --environment
            --watch
            --primary_metric=
            --goal=choice:minimize,maximize
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl runs diff')
        rows='
            --code
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --no_pager
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl runs code')
        rows='
            --output_dir|-o=folders
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl runs aggregate')
        rows='
            --child_arg=
            +--metrics=
            --system
            --stats|--no_stats
            --output_csv=files
            --output_parquet=files
            --plot=files
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,table,csv,tsv,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl runs logs')
        rows='
            --follow|-f
            --tail=
            --since=
            --file=
            --try=
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl runs attach')
        rows='
            --service=
            --node=
            --open
            --ssh
            --stdio
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl runs cancel')
        rows='
            --force
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl runs tag')
        rows='
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl runs archive')
        rows='
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl runs restore')
        rows='
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl runs export')
        rows='
            --to=files:.zip
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl runs import')
        rows='
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='files:.zip'
        ;;
    'himl runs delete')
        rows='
            --outputs
            --force
            --pointer_only
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --yes
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl ui')
        rows='
            --port=
            --host=
            --open
            --no_token
            --read_only
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        ;;
    'himl tb')
        rows='
            --log_dir=
            --run_logs_dir=folders
            --follow_links
            --refresh=
            --sync_only
            --port=
            --host=
            --open
            --no_token
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl download')
        rows='
            --prefix=
            --output_key=
            --list
            +--include=
            +--exclude=
            --output_dir|-o=folders
            --flat
            --strip_prefix
            --follow_links
            --overwrite
            --no_validate
            --workers=
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='list+runs...'
        ;;
    'himl checkpoint')
        verbs='fetch push url'
        rows='
            --help|-h
        '
        ;;
    'himl checkpoint fetch')
        rows='
            --select=choice:last,best
            --metric=
            --goal=choice:minimize,maximize
            --name_offset=
            --output_dir|-o=folders
            --overwrite
            --workers=
            +--run=list+runs
            --experiment=experiments
            --num_runs=choice:all
            +--tags|-t=
            +--status=list+choice:Queued,Running,Completed,Failed,Canceled
            --latest_run_file=files
            --children
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='runs+files'
        ;;
    'himl checkpoint push')
        rows='
            --from=runs
            --experiment=experiments
            --display_name=
            +--tag|-t=
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='files...'
        ;;
    'himl checkpoint url')
        rows='
            --select=choice:last,best
            --metric=
            --goal=choice:minimize,maximize
            --name_offset=
            --expiry_days=
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='runs+files'
        ;;
    'himl datastore')
        verbs='upload download list'
        rows='
            --help|-h
        '
        ;;
    'himl datastore upload')
        rows='
            +--include=
            +--exclude=
            --overwrite
            --no_validate
            --workers=
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --datastore=
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='files text'
        ;;
    'himl datastore download')
        rows='
            +--include=
            +--exclude=
            --overwrite
            --no_validate
            --workers=
            --strip_prefix
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --datastore=
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='text folders'
        ;;
    'himl datastore list')
        rows='
            +--include=
            +--exclude=
            --null
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --datastore=
            --format=choice:human,table,csv,tsv,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='text'
        ;;
    'himl montage')
        rows='
            --dataset=folders+files:.csv
            --image_glob=
            --include_by_slide_id=files
            --exclude_by_slide_id=files
            --datastore=
            --width=
            --level=choice:auto
            --mpp=
            --assume_mpp=
            --layout=choice:fit,hi-ml
            +--image_format=list+choice:png,jpg,dzi
            --output_path=folders
            --backend=choice:auto,tifffile,openslide,cucim
            --workers=
            --strict
            --cluster=choice:local+clusters
            +--conda_env=list+files:.yml,.yaml
            --private_wheel=files:.whl
            --shm_size=
            --experiment=experiments
            --display_name=
            --wait
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='folders+files:.csv'
        ;;
    'himl tiles')
        rows='
            --image_glob=
            --include_by_slide_id=files
            --exclude_by_slide_id=files
            --datastore=
            --tile_size=
            --overlap=
            --level=choice:auto
            --mpp=
            --magnification=
            --assume_mpp=
            --occupancy=
            --foreground=choice:saturation,otsu,mask
            --masks
            --mask_threshold=
            --mask_tiles
            --quality
            --regions=files
            --labels=files
            --on=
            --max_tiles=
            --seed=
            --image_format=choice:png,jpg
            --overview
            --dry_run
            --output_path=folders
            --backend=choice:auto,tifffile,openslide,cucim
            --workers=
            --strict
            --cluster=choice:local+clusters
            +--conda_env=list+files:.yml,.yaml
            --private_wheel=files:.whl
            --shm_size=
            --experiment=experiments
            --display_name=
            --wait
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet,files,tar
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='folders+files:.csv'
        ;;
    'himl dsa')
        verbs='upload list'
        rows='
            --help|-h
        '
        ;;
    'himl dsa upload')
        rows='
            --run=list+runs
            --id_filter=
            --kind=choice:rectangles,heatmap
            --value=
            --no_rescale
            --name=
            --url=
            --folder=
            --item=
            --overwrite
            --dry_run
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='files:.csv,.geojson,.json'
        ;;
    'himl dsa list')
        rows='
            --url=
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='text'
        ;;
    'himl init')
        rows='
            --from=files
            --subscription_id=
            --resource_group=
            --workspace_name=
            --local
            --slurm
            --ssh=
            --python=files
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        ;;
    'himl workspace')
        verbs='show'
        rows='
            --help|-h
        '
        ;;
    'himl workspace show')
        rows='
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        ;;
    'himl doctor')
        rows='
            --live
            --cluster=choice:local+clusters
            +--check=list+choice:job,same-code,failed-job,cancel,job-name,job-members,sweep,pipeline,nodes,output,limits,environment,connection,secrets,run-pages,run-order,run-filters,metrics,files,delete
            --environment=
            --keep
            --slurm=
            --ssh=
            --yes
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --help|-h
        '
        ;;
    'himl gc')
        rows='
            --older_than=
            --yes
            --workspace|-w=choice:local+machines+folders+files:.json
            --config_file=files:.json
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --help|-h
        '
        ;;
    'himl completion')
        rows='
            --yes
            --install
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --help|-h
        '
        kinds='choice:bash,zsh,fish,powershell'
        ;;
    'himl skill')
        rows='
            --install
            --yes
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --help|-h
        '
        ;;
    'himl schema')
        rows='
            --format=choice:human,json,quiet
            --json
            --quiet|-q
            --verbose|-v
            --yes
            --help|-h
        '
        kinds='text...'
        ;;
    esac
}

_himl_today() {
    # Sets `name` to the current name of the option $1, which may be one of hi-ml's.
    name=$1
    case $name in
    --compute_cluster_name) name=--cluster ;;
    --config_path) name=--config_file ;;
    --crossval_count) name=--crossval ;;
    --docker_shm_size) name=--shm_size ;;
    --dsa_url) name=--url ;;
    --experiment_name) name=--experiment ;;
    --files_to_download) name=--prefix ;;
    --image_glob_pattern) name=--image_glob ;;
    --parallel) name=--workers ;;
    --run_id) name=--run ;;
    --run_ids) name=--run ;;
    --run_recovery_ids) name=--run ;;
    --wait_for_completion) name=--wait ;;
    --workspace_config) name=--config_file ;;
    --workspace_config_path) name=--config_file ;;
    esac
}

_himl_words() {
    # Joins the words up to the cursor, which Bash splits at the characters in COMP_WORDBREAKS.
    local i word glue=''
    words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $i -gt 0 && (-n $glue || $word == [=:@]*) ]]; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
        glue=''
        if [[ -n $word && -z ${word//[=:@]/} ]]; then glue=1; fi
    done
}

_himl_plain() {
    # Sets `plain` to the word $1 without quotes and backslashes. Evaluates nothing in it.
    plain=${1//[\\\"\']/}
}

_himl_find() {
    # Sets `row` to the row of the option $1 in any spelling, or to nothing.
    local name=${1%%=*} each
    case $name in
    --*) name=${name#--} name=--${name//-/_} ;;
    *) name=${name:0:2} ;;
    esac
    _himl_today "$name"
    for each in $rows; do
        row=${each#+}
        if [[ "|${row%%=*}|" == *"|$name|"* ]]; then
            row=$each
            return
        fi
    done
    row=''
}

_himl_step() {
    # Processes the word $1: a command, an option, its value, or an argument.
    local row
    if [[ -n $rest ]]; then return; fi
    if [[ -n $pending ]]; then
        pending=''
        return
    fi
    case $1 in
    --) rest=1 ;;
    -?*)
        _himl_find "$1"
        used+=" $row "
        case $1 in
        --*=* | -[!-]?*) ;;
        *) if [[ $row == *=* ]]; then pending=$row; fi ;;
        esac
        ;;
    *)
        if [[ -n $verbs ]]; then
            where+=" $1"
            _himl_table "$where"
        else
            place=$((place + 1))
        fi
        ;;
    esac
}

_himl_add() {
    # Offers each line of $1, with the beginning of the current word as its prefix.
    local line
    while IFS= read -r line; do
        if [[ -n $line ]]; then COMPREPLY+=("$head$line"); fi
    done <<<"$1"
}

_himl_ask() {
    # Offers names of the kind $1 from himl that begin with $plain.
    local i begun=$plain line=()
    for ((i = 0; i < ${#words[@]}; i++)); do
        _himl_plain "${words[i]}"
        line+=("$plain")
    done
    _himl_add "$("${line[0]/#\~\//$HOME/}" --complete "$1=$begun" "${line[@]}" 2>/dev/null </dev/null)"
    compopt -o nosort 2>/dev/null
}

_himl_paths() {
    # Offers folders, and with $1 = -f also files, limited to the suffixes in $2, if any.
    local line
    while IFS= read -r line; do
        if [[ -z $line ]]; then continue; fi
        if [[ -z $2 || -d ${line/#\~\//$HOME/} || $line == *.* && ",$2," == *",.${line##*.},"* ]]; then COMPREPLY+=("$head$line"); fi
    done <<<"$(compgen "$1" -- "$plain")"
    paths=1
}

_himl_value() {
    # Offers values of the kind $1 that begin with $2.
    local kind=$1 begun=$2 part plain IFS=$' \t\n'
    if [[ $kind == list+* && $begun == *,* ]]; then
        head+=${begun%,*},
        begun=${begun##*,}
    fi
    _himl_plain "$begun"
    for part in ${kind//+/ }; do
        case $part in
        choice:*)
            part=${part#choice:}
            _himl_add "$(compgen -W "${part//,/ }" -- "$plain")"
            ;;
        runs | experiments | clusters | machines) _himl_ask "$part" ;;
        folders) _himl_paths -d '' ;;
        files:*) _himl_paths -f "${part#files:}" ;;
        files) _himl_paths -f '' ;;
        esac
    done
}

_himl_options() {
    # Offers matching options, except for used ones that do not repeat.
    local each names begun=$current
    case $begun in
    --?*) begun=${begun#--} begun=--${begun//-/_} ;;
    esac
    for each in $rows; do
        if [[ $each != +* && $used == *" $each "* ]]; then continue; fi
        names=${each#+}
        names=${names%%=*}
        _himl_add "$(compgen -W "${names//|/ }" -- "$begun")"
    done
}

_himl_argument() {
    # Offers the next argument, or the options if the command takes no more arguments.
    local due all=($kinds)
    due=${all[place]-}
    if [[ -z $due && ${#all[@]} -gt 0 ]]; then
        due=${all[${#all[@]} - 1]}
        if [[ $due != *... ]]; then due=''; fi
    fi
    if [[ -n $due ]]; then
        _himl_value "${due%...}" "$current"
    elif [[ -z $current ]]; then
        _himl_options
    fi
}

_himl_offer() {
    # Offers the completions at the cursor.
    local row
    if [[ -n $pending ]]; then
        _himl_value "${pending#*=}" "$current"
    elif [[ -n $rest ]]; then
        _himl_value files "$current"
    elif [[ $current == --*=* ]]; then
        _himl_find "$current"
        head=${current%%=*}=
        if [[ $row == *=* ]]; then _himl_value "${row#*=}" "${current#*=}"; fi
    elif [[ $current == -* ]]; then
        _himl_options
    elif [[ -n $verbs ]]; then
        _himl_add "$(compgen -W "$verbs" -- "$current")"
    else
        _himl_argument
    fi
}

_himl_cut() {
    # Removes the prefix that readline keeps, up to the last character in COMP_WORDBREAKS.
    local sign piece kept='' i
    for sign in = : @; do
        if [[ $COMP_WORDBREAKS != *"$sign"* || $current != *"$sign"* ]]; then continue; fi
        piece=${current%"${current##*"$sign"}"}
        if [[ ${#piece} -gt ${#kept} ]]; then kept=$piece; fi
    done
    for ((i = 0; i < ${#COMPREPLY[@]}; i++)); do
        COMPREPLY[i]=${COMPREPLY[i]#"$kept"}
    done
}

_himl() {
    local IFS=$' \t\n'
    local verbs rows kinds words=() current i
    local where=himl used='' pending='' place=0 rest='' head='' paths=''
    COMPREPLY=()
    _himl_words
    current=${words[${#words[@]} - 1]}
    _himl_table "$where"
    for ((i = 1; i < ${#words[@]} - 1; i++)); do
        _himl_step "${words[i]}"
    done
    _himl_offer
    _himl_cut
    if [[ -n $paths ]]; then
        compopt -o filenames 2>/dev/null
        if [[ ${#COMPREPLY[@]} -eq 0 ]]; then compopt -o default 2>/dev/null; fi
    fi
    return 0
}

if type compopt >/dev/null 2>&1; then
    complete -F _himl himl
else
    complete -o filenames -F _himl himl
fi
