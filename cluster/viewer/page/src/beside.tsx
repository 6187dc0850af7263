import { useEffect, useState } from "preact/hooks";
import type { Episode, Step } from "./api";
import { StepView } from "./episode";
import { number } from "./format";
import { useAnswers } from "./load";
import { address } from "./route";
import { Plain } from "./text";

const STEPS = 60;

export interface Column { run: string; id: string; title: string }

const act = (step: Step) => JSON.stringify([step.content?.text ?? "", step.calls.map((call) => [call.name, call.arguments?.text])]);
const answers = (step: Step) => JSON.stringify(step.observations.map((message) => [message.role, message.content?.text]));

interface Cell { columns: number[]; step: Step | null }
interface Line { at: number; cells: Cell[]; parting: "actions" | "answers" | null }

/** Transcripts as a tree: columns that have done and read the same so far share a cell. */
function align(lists: Step[][]): { order: number[]; lines: Line[] } {
  const length = Math.max(0, ...lists.map((list) => list.length));
  const key = (column: number, until: number) => lists[column].slice(0, until + 1).map((step) => act(step) + answers(step)).join("\n");
  const whole = lists.map((_, column) => key(column, length));
  // The first column stays the first; those that go with it the farthest stand next to it.
  const shared = (one: number, other: number) => {
    let at = 0;
    while (at < length && key(one, at) === key(other, at)) at++;
    return at;
  };
  const order = lists.map((_, column) => column).sort((one, other) => one === 0 ? -1 : other === 0 ? 1
    : shared(0, other) - shared(0, one) || whole[one].localeCompare(whole[other]) || one - other);
  const lines: Line[] = [];
  let groups: number[][] = [order];
  for (let at = 0; at < length; at++) {
    const next: number[][] = [];
    let parting: Line["parting"] = null;
    for (const group of groups) {
      const found = new Map<string, number[]>();
      for (const column of group) {
        const step = lists[column][at];
        const name = step ? act(step) + answers(step) : "";
        found.set(name, [...(found.get(name) ?? []), column]);
      }
      if (found.size > 1) parting = new Set(group.map((column) => lists[column][at] ? act(lists[column][at]) : "")).size > 1 ? "actions" : parting ?? "answers";
      next.push(...found.values());
    }
    groups = next;
    lines.push({ at, parting, cells: groups.map((columns) => ({ columns, step: lists[columns[0]][at] ?? null })) });
  }
  return { order: groups.length ? groups.flat() : order, lines };
}

/** Transcripts side by side, step by step, with a line wherever some of them part. */
export function Beside({ columns, scroll }: { columns: Column[]; scroll?: boolean }) {
  const episodes = useAnswers<Episode>(columns.map((one) => `runs/${one.run}/episodes/${one.id}`));
  const steps = useAnswers<Step[]>(columns.map((one) => `runs/${one.run}/episodes/${one.id}/steps?first=0&count=${STEPS}`));
  const [scrolled, setScrolled] = useState(false);
  const ready = [...episodes, ...steps].every((one) => one.value);
  const errors = [...episodes, ...steps].map((one) => one.error).filter(Boolean);
  useEffect(() => {
    if (!ready || scrolled || !scroll) return;
    document.querySelector(".beside")?.scrollIntoView({ block: "start" });
    setScrolled(true);
  }, [ready]);
  if (errors.length) return <p class="error" role="alert">{errors[0]}</p>;
  if (!ready) return <p class="dim" role="status">Loading…</p>;
  const lists = steps.map((one) => one.value!);
  const { order, lines } = align(lists);
  const title = (group: number[]) => group.map((column) => columns[column].title).join(", ");
  return (
    <section class="beside" aria-label="Transcripts side by side" style={{ "--columns": String(columns.length) }}>
      <header class="two">{order.map((column) => <BesideHead column={columns[column]} episode={episodes[column].value!} />)}</header>
      {lines.map(({ at, cells, parting }) => <>
        {parting && <p class="boundary">{parting === "actions" ? "here they part" : "here the answers differ"}{cells.length > 1 && columns.length > 2 && <span class="dim"> {cells.map((cell) => title(cell.columns)).join(" | ")}</span>}</p>}
        <div class="two">{cells.map((cell) => {
          const column = cell.columns[0];
          return <div style={{ gridColumn: `span ${cell.columns.length}` }}>
            {cell.columns.length > 1 && cells.length > 1 && <p class="small dim shared">{title(cell.columns)}</p>}
            {cell.step ? <StepView step={cell.step} at={at} current={false} run={columns[column].run} episode={episodes[column].value!} wide={false} previousVersion={null} onPick={() => undefined} />
              : <p class="dim small">No step {at}: {cell.columns.length > 1 ? "these episodes" : "the episode"} had ended.</p>}</div>;
        })}</div>
      </>)}
      {lists.some((list) => list.length === STEPS) && <p class="small dim">The first {STEPS} steps are shown.</p>}
      {lines.every((line) => line.parting === null) && <p class="boundary">all act alike to the end</p>}
    </section>
  );
}

function BesideHead({ column, episode }: { column: Column; episode: Episode }) {
  return (
    <div>
      <h3><a href={address(["run", column.run, "episode", column.id])}>{column.title}</a></h3>
      <p class="small"><span class={episode.status === "failed" ? "danger" : ""}>{episode.status}</span>, <b>reward {number(episode.reward)}</b>, <Plain text={episode.model} />{episode.policy_version !== null && `, version ${episode.policy_version}`}{episode.stop_reason && <>, ended by <Plain text={episode.stop_reason} /></>}</p>
      {episode.error && <p class="danger small"><Plain text={`${episode.error.stage}: ${episode.error.type}: ${episode.error.message.slice(0, 500)}`} /></p>}
    </div>
  );
}
