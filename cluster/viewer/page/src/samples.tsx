import type { Episode } from "./api";
import { Beside } from "./beside";
import { number } from "./format";
import { useAnswer, Waiting } from "./load";
import { address, go, type Route } from "./route";
import { Plain } from "./text";

const MOST = 4;

/** Which samples are shown first: the given one, and those whose rewards differ from it and one another. */
function firstChoice(samples: Episode["samples"], id: string): string[] {
  const chosen = samples.filter((sample) => sample.episode_id === id);
  const rest = samples.filter((sample) => sample.episode_id !== id && sample.turns > 0);
  const seen = new Set(chosen.map((sample) => sample.reward));
  for (const sample of rest) if (!seen.has(sample.reward) && chosen.length < 3) { chosen.push(sample); seen.add(sample.reward); }
  for (const sample of rest) if (chosen.length < 2 && !chosen.includes(sample)) chosen.push(sample);
  return chosen.map((sample) => sample.episode_id);
}

/** The samples of one task side by side, aligned where they part. */
export function SamplesPage({ run, id, route }: { run: string; id: string; route: Route }) {
  const answer = useAnswer<Episode>(`runs/${run}/episodes/${encodeURIComponent(id)}`);
  const samples = answer.value?.samples ?? [];
  const asked = (route.query.get("with") ?? "").split(",").filter((one) => samples.some((sample) => sample.episode_id === one));
  const chosen = asked.length ? asked : firstChoice(samples, id);
  const choose = (next: string[]) => go(route.path, new URLSearchParams({ with: next.join(",") }));
  return (
    <main class="samples">
      <Waiting of={answer}>{answer.value && <>
        <h2><Plain text={answer.value.task_id} /> <span class="dim">{samples.length} samples</span></h2>
        <p class="row small" role="group" aria-label="Samples">
          {samples.map((sample) => (
            <button aria-pressed={chosen.includes(sample.episode_id)} disabled={!chosen.includes(sample.episode_id) && chosen.length >= MOST}
              onClick={() => choose(chosen.includes(sample.episode_id) ? chosen.filter((one) => one !== sample.episode_id) : [...chosen, sample.episode_id])}>
              sample {sample.sample_index}: {sample.status === "failed" ? "failed" : number(sample.reward)}
            </button>
          ))}
          <span class="dim">at most {MOST} at once</span>
          <span class="spacer" />
          <a href={address(["run", run, "episodes"], new URLSearchParams({ where: `task_id=${answer.value.task_id}` }))}>in the table</a>
        </p>
        {chosen.length > 0 && <Beside key={chosen.join()} columns={chosen.map((one) => ({ run, id: one, title: `sample ${samples.find((sample) => sample.episode_id === one)!.sample_index}` }))} />}
        {samples.length < 2 && <p class="dim">This task has one sample only.</p>}
      </>}</Waiting>
    </main>
  );
}
