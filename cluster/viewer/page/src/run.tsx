import type { ComponentChildren } from "preact";
import type { Brief, By, Mean, Overview } from "./api";
import { Bars, Heat, Intervals, Lines } from "./charts";
import { DisagreeingTasks, InjectionTable, ToolTable, VersionChoice } from "./insights";
import { label, moment, number, seconds } from "./format";
import { useAnswer, Waiting } from "./load";
import { go } from "./route";
import { Plain } from "./text";

type Line = Record<string, unknown>;
const of = (row: Line, ...path: string[]): number | null => {
  let value: unknown = row;
  for (const part of path) value = typeof value === "object" && value !== null ? (value as Line)[part] : null;
  return typeof value === "number" ? value : null;
};

function present(means: Record<string, Mean | null>): [string, Mean][] {
  return Object.entries(means).filter((pair): pair is [string, Mean] => pair[1] !== null && pair[0] !== "metric.turns");
}

function Groups({ title, column, rows, run, children }: { title: string; column: string; rows: By[]; run: string; children?: ComponentChildren }) {
  if (rows.length < 2) return null;
  const names = Object.keys(rows[0].means).filter((name) => rows.some((row) => row.means[name]));
  return (
    <figure class={names.length > 4 ? "full" : "broad"}><figcaption>{title}</figcaption><div class="scroll"><table>
      <thead><tr><th>{label(column)}</th><th>episodes</th>{names.map((name) => <th>{label(name)}</th>)}</tr></thead>
      <tbody>{rows.map((row) => <tr onClick={() => go(["run", run, "episodes"], new URLSearchParams({ where: `${column}=${row.key}` }))}>
        <td><button class="plain">{String(row.key)}</button></td><td class="number">{number(row.episodes)}</td>
        {names.map((name) => { const mean = row.means[name]; return <td class="number">{mean ? <>{number(mean.value)} <span class="dim small">[{number(mean.low, 2)}, {number(mean.high, 2)}]</span></> : "–"}</td>; })}
      </tr>)}</tbody></table></div>{children}</figure>
  );
}

/** A trainer's run: reward, utility and attack success over the versions of the weights. */
function VersionLines({ rows }: { rows: By[] }) {
  if (rows.length < 2) return null;
  const series = rows.map((row) => ({ ...row }) as unknown as Line);
  const mean = (name: string) => (row: Line) => (row as unknown as By).means[name]?.value ?? null;
  const names = ["reward", "metric.utility", "metric.attack_success", "metric.solved"].filter((name) => rows.some((row) => row.means[name]));
  return <>{names.map((name) => <Lines title={`${label(name)} by version of the weights`} rows={series} x={(row) => Number(row.key)} write={(value) => `version ${value}`} lines={[[label(name), mean(name)]]} />)}</>;
}

function Counts({ title, column, rows, run }: { title: string; column: string; rows: [string | number, number][]; run: string }) {
  if (!rows.length) return null;
  const most = rows[0][1];
  return (
    <figure><figcaption>{title}</figcaption>
      {rows.slice(0, 12).map(([name, count]) => (
        <div class="count"><button class="plain" onClick={() => go(["run", run, "episodes"], new URLSearchParams({ where: `${column}=${name}` }))}><Plain text={String(name).slice(0, 60)} /></button>
          <span class="share"><i style={{ width: `${(100 * count) / most}%` }} />{number(count)}</span></div>
      ))}</figure>
  );
}

/** A run in numbers and plots; each of them leads to its episodes. */
export function RunPage({ run, progress }: { run: string; progress: number }) {
  const brief = useAnswer<Brief>(window.KUMITE_REPORT ? null : `runs/${run}/brief`);
  const answer = useAnswer<Overview>(`runs/${run}`, progress);
  const found = answer.value;
  const head = found ?? brief.value;
  return (
    <main class="run">
      {head && !answer.error && <Head run={run} head={head} />}
      <Waiting of={answer}>{found && <>
        <Section title="outcome">
          <Intervals title="metrics" mixed rows={present(found.means)} onPick={(name) => go(["run", run, "episodes"], new URLSearchParams({ sort: `-${name}` }))} />
          <Bars title="reward" data={found.histograms.reward} />
          <Counts title="failures by stage" column="error_stage" rows={found.counts.error_stage} run={run} />
          <Counts title="failures by kind" column="error_kind" rows={found.counts.error_kind} run={run} />
          <Counts title="stop reasons" column="stop_reason" rows={found.counts.stop_reason} run={run} />
          <DisagreeingTasks run={run} rows={found.disagreeing} />
          <Groups title="by suite" column="suite" rows={found.suites} run={run} />
        </Section>
        {found.versions.length > 1 && <Section title="versions of the weights">
          <VersionLines rows={found.versions} />
          <Groups title="by version of the weights" column="policy_version" rows={found.versions} run={run}>
            <VersionChoice run={run} versions={found.versions.map((row) => row.key)} />
          </Groups>
        </Section>}
        {Object.keys(found.heat).length > 0 && <Section title="attacks">
          {found.heat.attack_success?.length > 0 && <InjectionTable run={run} again={progress} />}
          {Object.entries(found.heat).map(([name, cells]) => <Heat name={name} cells={cells} onPick={(cell) => {
            const query = new URLSearchParams();
            for (const key of ["suite", "user_task", "injection_task"] as const) query.append("where", `${key}=${cell[key]}`);
            go(["run", run, "episodes"], query);
          }} />)}
        </Section>}
        <Section title="what the policy did">
          <ToolTable run={run} again={progress} />
          <Bars title="turns" data={found.histograms.turns} />
          <Bars title="sampled tokens" data={found.histograms.completion_tokens} />
          <Bars title="prompt tokens" data={found.histograms.prompt_tokens} />
        </Section>
        <Section title="where the time goes">
          {Object.values(found.stages).some(Boolean) && (
            <figure><figcaption>seconds per stage</figcaption><table><thead><tr><th>stage</th><th>median</th><th>mean</th><th>95 %</th></tr></thead>
              <tbody>{Object.entries(found.stages).map(([stage, value]) => value && <tr><td>{stage}</td><td class="number">{seconds(value.p50)}</td><td class="number">{seconds(value.mean)}</td><td class="number">{seconds(value.p95)}</td></tr>)}</tbody></table></figure>
          )}
          <Bars title="seconds per episode" data={found.histograms.seconds_total} unit="s" />
          <Lines title="episodes" rows={found.series} x={(row) => of(row, "elapsed") ?? 0} lines={[["finished", (row) => of(row, "finished")], ["in flight", (row) => of(row, "in_flight")]]} />
          <Lines title="policy: requests" rows={found.series} x={(row) => of(row, "elapsed") ?? 0} lines={[["running", (row) => of(row, "policy", "running")], ["waiting", (row) => of(row, "policy", "waiting")]]} />
          <Lines title="tokens per second" rows={found.series} x={(row) => of(row, "elapsed") ?? 0} lines={[["tokens/s", (row) => of(row, "tokens_per_second")]]} />
          <Lines title="KV cache in use" rows={found.series} x={(row) => of(row, "elapsed") ?? 0} lines={[["share", (row) => of(row, "policy", "kv_cache_usage") ?? of(row, "policy", "kv_cache")]]} />
        </Section>
        <details><summary>config.yaml</summary><pre class="text"><Plain text={found.config} /></pre></details>
      </>}</Waiting>
    </main>
  );
}

/** What a run is, and its main figures. */
function Head({ run, head }: { run: string; head: Brief }) {
  const failed = head.finished === null ? null : head.episodes - head.finished;
  return <>
    <header class="title">
      <h2>{head.run_id} <span class={`badge ${head.state === "live" ? "good" : head.state === "cut off" ? "warn" : ""}`}>{head.state}</span></h2>
      <p class="small dim">{moment(head.created)} · {head.place}</p>
    </header>
    <div class="tiles">
      <Tile name="episodes" value={`${number(head.episodes)}${head.planned === null ? "" : ` of ${number(head.planned)}`}`} onPick={() => go(["run", run, "episodes"])} />
      <Tile name="failed" value={number(failed)} danger={failed !== null && failed > 0} onPick={() => go(["run", run, "episodes"], new URLSearchParams({ where: "status=failed" }))} />
      <Tile name="reward" value={number(head.means.reward?.value ?? null)} />
      {["utility", "attack_success"].map((name) => head.means[`metric.${name}`] && <Tile name={label(name)} value={number(head.means[`metric.${name}`]!.value)} />)}
      <Tile name="wall clock" value={seconds(head.wall_seconds)} />
      <Tile name="episodes/s" value={head.wall_seconds ? number(head.episodes / head.wall_seconds) : "–"} />
    </div>
  </>;
}

function Section({ title, children }: { title: string; children: ComponentChildren }) {
  return <section class="part" aria-label={title}><h3>{title}</h3><div class="figures">{children}</div></section>;
}

function Tile({ name, value, danger, onPick }: { name: string; value: string; danger?: boolean; onPick?: () => void }) {
  const inside = <><span class={`value ${danger ? "danger" : ""}`}>{value}</span><span class="small dim">{name}</span></>;
  return onPick ? <button class="tile" onClick={onPick}>{inside}</button> : <div class="tile">{inside}</div>;
}
