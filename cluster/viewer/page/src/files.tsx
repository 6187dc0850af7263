import { useState } from "preact/hooks";
import { number } from "./format";
import { useAnswer, Waiting } from "./load";
import { Plain } from "./text";

interface FileChange {
  path: string; change: "added" | "removed" | "changed"; size_before: number | null; size_after: number | null;
  lines: [string, string][] | null; left_out: number;
}
const OPEN_FILES = 3;
const LOOK: Record<string, string> = { "+": "added", "-": "removed", "@": "hunk", " ": "same" };

function counts(file: FileChange) {
  if (!file.lines) return <span class="dim">{[file.size_before, file.size_after].filter((size) => size !== null).map((size) => number(size)).join(" → ")} bytes</span>;
  const of = (sign: string) => file.lines!.filter(([one]) => one === sign).length;
  return <><span class="fine">+{of("+")}</span> <span class="danger">−{of("-")}</span></>;
}

function Diff({ file, open }: { file: FileChange; open: boolean }) {
  return (
    <details class="file" open={open}>
      <summary><code><Plain text={file.path} /></code> <span class="badge">{file.change}</span> <span class="small">{counts(file)}</span></summary>
      {file.lines === null ? <p class="small dim">No diff: the file is large, or not text.</p> : (
        <pre class="diff" tabIndex={0}>{file.lines.map(([sign, text]) => <span class={`line ${LOOK[sign]}`}><i class="sign">{sign === "@" ? " " : sign}</i><Plain text={text} />{"\n"}</span>)}</pre>
      )}
      {file.left_out > 0 && <p class="small dim">{number(file.left_out)} more lines are not shown.</p>}
    </details>
  );
}

/** The files that a step changed, or the whole episode, as diffs. */
function FileList({ run, episode, step }: { run: string; episode: string; step: number | null }) {
  const answer = useAnswer<FileChange[]>(`runs/${run}/episodes/${episode}/files${step === null ? "" : `?step=${step}`}`);
  return <Waiting of={answer}>{answer.value && (answer.value.length ? answer.value.map((file) => <Diff key={file.path} file={file} open={answer.value!.length <= OPEN_FILES} />) : <p class="small dim">No file changed.</p>)}</Waiting>;
}

/** A fold with the diffs, which are asked for when it is opened. */
export function FileChanges({ run, episode, step, title, open: opened = false }: { run: string; episode: string; step: number | null; title: string; open?: boolean }) {
  const [open, setOpen] = useState(opened);
  return (
    <details class="files" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{title}</summary>
      {open && <FileList run={run} episode={episode} step={step} />}
    </details>
  );
}
