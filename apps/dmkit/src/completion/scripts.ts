/** What shells are told: they ask `dmkit complete`, and show what it prints, a candidate and its help a line. */

/** Printed instead of candidates: the shell is to complete names of files. */
export const FILES = ":files";

export const shells = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof shells)[number];

export const completionScripts: Readonly<Record<Shell, string>> = {
  bash: `# dmkit completion for bash: source <(dmkit completion bash)
_dmkit() {
  local line words=()
  COMPREPLY=()
  while IFS= read -r line; do
    if [[ $line == ${FILES} ]]; then compopt -o default; return; fi
    words+=("$(printf %q "\${line%%$'\\t'*}")")
  done < <(dmkit complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  COMPREPLY=("\${words[@]}")
}
complete -F _dmkit dmkit
`,
  zsh: `#compdef dmkit
# dmkit completion for zsh: source <(dmkit completion zsh), or save it as _dmkit in a folder of $fpath
_dmkit() {
  local line
  local -a found
  while IFS= read -r line; do
    if [[ $line == ${FILES} ]]; then _files; return; fi
    found+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}")
  done < <(dmkit complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)
  _describe -t dmkit dmkit found
}
compdef _dmkit dmkit
`,
  fish: `# dmkit completion for fish: dmkit completion fish > ~/.config/fish/completions/dmkit.fish
function __dmkit_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found (dmkit complete -- $words[2..] 2>/dev/null)
    if test "$found[1]" = "${FILES}"
        __fish_complete_path (commandline -ct)
    else
        printf '%s\\n' $found
    end
end
complete -c dmkit -f -a '(__dmkit_complete)'
`,
};
