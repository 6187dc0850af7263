import type { Disagreeing, Injections, ToolUse } from "./api";
import { number } from "./format";
import { useAnswer } from "./load";
import { comparedVersions, has } from "./report";
import { address, go } from "./route";
import { Plain } from "./text";

/** Which injections succeed, and where they stood in the tool result that brought them. */
export function InjectionTable({ run, again }: { run: string; again: number }) {
  const answer = useAnswer<Injections>(`runs/${run}/injections`, again);
  const found = answer.value;
  if (answer.error) return <p class="error" role="alert">{answer.error}</p>;
  if (!found) return <figure class="full"><figcaption>injections</figcaption><p class="dim" role="status">Loading…</p></figure>;
  if (!found.rows.length) return null;
  const places = Object.keys(found.rows[0].places);
  return (
    <figure class="full injections"><figcaption>injections <span class="dim small">attack success, and where the text stood in the tool result that the policy read</span></figcaption><div class="scroll" tabIndex={0} role="region" aria-label="Injections"><table>
      <thead><tr><th class="text">suite</th><th class="text">injection task</th><th>episodes</th><th>attack success</th><th title="share of the episodes in which the policy read the injected text">read</th>{places.map((place) => <th title={`it stood in the ${place} third of the result: the share of these episodes in which the attack succeeded`}>{place}</th>)}<th class="text">in the result of</th></tr></thead>
      <tbody>{found.rows.map((row) => (
        <tr onClick={() => open(run, row.suite, row.injection_task)}>
          <td>{row.suite}</td><td><button class="plain">{row.injection_task}</button></td><td class="number">{number(row.episodes)}</td>
          <td class="number"><span class="share bad"><i style={{ width: `${100 * row.success.value}%` }} />{number(row.success.value)}</span> <span class="dim small interval-text">[{number(row.success.low, 2)}, {number(row.success.high, 2)}]</span></td>
          <td class="number">{number(row.read)}</td>
          {places.map((place) => { const one = row.places[place]; return <td class="number">{one.episodes ? <><span class={one.success ? "danger" : ""}>{number(one.success)}</span> <span class="dim small">of {number(one.episodes)}</span></> : <span class="dim">–</span>}</td>; })}
          <td>{row.tools.map(([name, count]) => <><code><Plain text={name} /></code> <span class="dim small">{number(count)}</span> </>)}</td>
        </tr>
      ))}</tbody></table></div>
      <p class="small dim">{number(found.looked_through)} finished episodes under attack were looked through.</p>
    </figure>
  );
}

function open(run: string, suite: string, injection: string): void {
  const query = new URLSearchParams({ sort: "-metric.attack_success" });
  for (const where of [`suite=${suite}`, `injection_task=${injection}`]) query.append("where", where);
  go(["run", run, "episodes"], query);
}

/** The tasks whose samples disagree most; each leads to its samples side by side. */
export function DisagreeingTasks({ run, rows }: { run: string; rows: Disagreeing[] }) {
  if (!rows.length) return null;
  return (
    <figure class="broad"><figcaption>tasks whose samples disagree most</figcaption><div class="scroll" tabIndex={0} role="region" aria-label="Tasks whose samples disagree most"><table>
      <thead><tr><th>task</th><th>samples</th><th>pass rate</th><th title="deviation of the reward">deviation</th></tr></thead>
      <tbody>{rows.map((row) => {
        const shown = has(`runs/${run}/episodes/${row.episode_id}`);
        const task = <Plain text={row.task_id.slice(0, 120)} />;
        return <tr onClick={() => { if (shown) go(["run", run, "samples", row.episode_id]); }}>
          <td>{shown ? <a href={address(["run", run, "samples", row.episode_id])} onClick={(event) => event.stopPropagation()}>{task}</a> : task}</td>
          <td class="number">{number(row.samples)}</td><td class="number"><span class="share"><i style={{ width: `${100 * row.pass_rate}%` }} />{number(row.pass_rate)}</span></td><td class="number">{number(row.reward_deviation)}</td>
        </tr>;
      })}</tbody></table></div></figure>
  );
}

/** How often each tool was called, and how often that was an error. */
export function ToolTable({ run, again }: { run: string; again: number }) {
  const answer = useAnswer<ToolUse[]>(`runs/${run}/tools`, again);
  if (!answer.value?.length) return null;
  const most = answer.value[0].calls;
  const told = answer.value.some((row) => row.errors !== null);
  return (
    <figure><figcaption>tools</figcaption><div class="scroll tall" tabIndex={0} role="region" aria-label="Tools"><table>
      <thead><tr><th>tool</th><th>calls</th>{told && <th>errors</th>}<th>episodes</th></tr></thead>
      <tbody>{answer.value.map((row) => (
        <tr onClick={() => go(["run", run, "episodes"], new URLSearchParams({ search: row.name }))}>
          <td><button class="plain"><Plain text={row.name.slice(0, 80)} /></button></td>
          <td class="number"><span class="share"><i style={{ width: `${(100 * row.calls) / most}%` }} />{number(row.calls)}</span></td>
          {told && <td class={`number ${row.errors ? "danger" : ""}`}>{row.errors === null ? "–" : <>{number(row.errors)} <span class="dim small">{number(100 * row.errors / row.calls, 2)} %</span></>}</td>}
          <td class="number">{number(row.episodes)}</td>
        </tr>
      ))}</tbody></table></div></figure>
  );
}

/** Chooses two versions of the weights to compare task by task. */
export function VersionChoice({ run, versions: played }: { run: string; versions: (string | number)[] }) {
  const held = comparedVersions(run);
  const versions = held === null ? played : played.filter((one) => held.has(String(one)));
  if (versions.length < 2) return null;
  const compare = (form: HTMLFormElement) => {
    const data = new FormData(form);
    go(["compare", `${run}@${String(data.get("one"))}`, `${run}@${String(data.get("other"))}`]);
  };
  const options = (chosen: string | number) => versions.map((version) => <option value={String(version)} selected={version === chosen}>{String(version)}</option>);
  return (
    <form class="row small" onSubmit={(event) => { event.preventDefault(); compare(event.currentTarget); }}>
      <label>version <select name="one">{options(versions[0])}</select></label>
      <label>beside version <select name="other">{options(versions[versions.length - 1])}</select></label>
      <button type="submit">compare task by task</button>
      <span class="dim">over the tasks that both played</span>
    </form>
  );
}
