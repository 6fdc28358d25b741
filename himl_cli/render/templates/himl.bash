# Tab completion of himl in Bash 3.2 and later, printed by `himl completion bash`.
# himl generates the table. The functions after it do not depend on it.

_himl_table() {
    # The subcommands (verbs), options (rows) and kinds of arguments of the command $1.
    verbs='' rows='' kinds=''
    case $1 in
@TABLE@
    esac
}

_himl_today() {
    # Sets `name` to the current name of the option $1, which may be one of hi-ml's.
    name=$1
    case $name in
@OLD_NAMES@
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
