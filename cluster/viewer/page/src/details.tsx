import type { Episode, ExpectedCall } from "./api";
import { number } from "./format";
import { Plain, Text } from "./text";

type Found = Record<string, unknown>;
const isObject = (value: unknown): value is Found => typeof value === "object" && value !== null && !Array.isArray(value);

/** The hidden tests that failed, with what they said. */
function Tests({ details }: { details: Found }) {
  if (!isObject(details.failures)) return null;
  const failures = Object.entries(details.failures);
  const total = typeof details.tests === "number" ? details.tests : null;
  if (!failures.length) return <p class="small fine">{total === null ? "All tests passed." : `All ${total} tests passed.`}</p>;
  return (
    <section class="failure tests">
      <h4>{failures.length} of {total || failures.length} tests failed</h4>
      {failures.map(([name, said]) => <div class="test"><code><Plain text={name} /></code><pre class="text"><Plain text={typeof said === "string" ? said : JSON.stringify(said, null, 2)} /></pre></div>)}
    </section>
  );
}

/** How an agent's program ended, and the end of what it printed. */
function Agent({ agent }: { agent: Found }) {
  const printed = Object.entries(agent).filter(([, value]) => typeof value === "string" && value.length > 60);
  const facts = Object.entries(agent).filter(([, value]) => value !== null && value !== "" && !(typeof value === "string" && value.length > 60));
  return (
    <details class="agent">
      <summary>the agent's program <span class="dim small">{facts.map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "object" ? JSON.stringify(value) : String(value)}`).join(", ")}</span></summary>
      {printed.map(([name, value]) => <><h4>{name.replaceAll("_", " ")}</h4><Text cut={{ text: value as string, length: (value as string).length }} /></>)}
    </details>
  );
}

function Connections({ rows }: { rows: Found[] }) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return (
    <details><summary>connections <span class="dim">{rows.length}</span></summary>
      <div class="scroll"><table><thead><tr>{names.map((name) => <th>{name.replaceAll("_", " ")}</th>)}</tr></thead>
        <tbody>{rows.map((row) => <tr>{names.map((name) => <td class={typeof row[name] === "number" ? "number" : ""}>{typeof row[name] === "number" ? number(row[name]) : <Plain text={row[name] === null || row[name] === undefined ? "–" : String(row[name])} />}</td>)}</tr>)}</tbody></table></div>
    </details>
  );
}

/** What the evaluation told beside the metrics: tests, the agent's end, connections, and whatever else. */
export function Details({ episode }: { episode: Episode }) {
  const details = isObject(episode.details) ? episode.details : null;
  const rest = details && Object.fromEntries(Object.entries(details).filter(([name]) => !["tests", "failures", "agent"].includes(name)));
  const connections = Array.isArray(episode.connections) ? (episode.connections as unknown[]).filter(isObject) : [];
  return <>
    {details && <Tests details={details} />}
    {details && isObject(details.agent) && <Agent agent={details.agent} />}
    {rest && Object.keys(rest).length > 0 && <details><summary>what the evaluation told</summary><Text cut={{ text: JSON.stringify(rest, null, 2), length: 0 }} /></details>}
    {connections.length > 0 && <Connections rows={connections} />}
  </>;
}

function Expected({ title, calls, bad, pick }: { title: string; calls: ExpectedCall[]; bad: boolean; pick: (step: number) => void }) {
  if (!calls.length) return null;
  return (
    <section class="expected">
      <h4>{title}</h4>
      <ul>{calls.map((call) => (
        <li>
          <code><Plain text={call.name} /></code> <span class="small arguments"><Plain text={JSON.stringify(call.arguments)} /></span>{" "}
          {call.step !== null ? <button class={`plain ${bad ? "danger" : "fine"}`} onClick={() => pick(call.step!)}>made at step {call.step}</button>
            : call.other_step !== null ? <button class="plain warn" onClick={() => pick(call.other_step!)}>with other arguments at step {call.other_step}</button>
            : <span class={bad ? "fine" : "danger"}>not made</span>}
        </li>
      ))}</ul>
    </section>
  );
}

/** The calls of the tasks' ground truths beside those that were made: the reason of utility and attack success. */
export function Reasons({ episode, pick }: { episode: Episode; pick: (step: number) => void }) {
  const metric = (name: string) => (typeof episode.metrics === "string" ? null : (episode.metrics[name] ?? null));
  const utility = metric("utility");
  if (!episode.own_calls.length && !episode.wanted_calls.length) return null;
  return (
    <details class="reasons" open={utility === 0 || metric("attack_success") === 1}>
      <summary>why: the calls that the tasks' ground truths make</summary>
      <div class="two">
        <Expected title="the user's task" calls={episode.own_calls} bad={false} pick={pick} />
        <Expected title="the injection" calls={episode.wanted_calls} bad pick={pick} />
      </div>
      <p class="small dim">A ground truth is one way to solve a task. AgentDojo's own check looks at the state and at the last answer, so another way may succeed.</p>
    </details>
  );
}
