// What OpenAI's own library for Node makes of a server: each line it prints is one JSON object.
// node drive.mjs URL generate|edit|models|stream|break|abort {"client": {…}, "body": {…}}
import OpenAI, { toFile } from 'openai';

const [url, act, told] = process.argv.slice(2);
const options = told ? JSON.parse(told) : {};
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'anything', ...options.client });
const small = { model: 'mock', size: '128x128', ...options.body };
const say = (line) => console.log(JSON.stringify(line));

try {
  if (act === 'generate') {
    const answer = await client.images.generate(small);
    for (const { b64_json, seed } of answer.data) say({ kind: 'picture', b64_json, seed, job: answer._request_id });
  } else if (act === 'edit') {
    await client.images.edit({ ...small, image: await toFile(Buffer.alloc(100_000), 'a.png', { type: 'image/png' }) });
  } else if (act === 'models') {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    say({ kind: 'models', ids });
  } else {
    const stream = await client.images.generate({ ...small, stream: true });
    for await (const event of stream) {
      say({ kind: event.type, index: event.partial_image_index, b64_json: event.b64_json });
      if (act === 'break') break;
      if (act === 'abort') stream.controller.abort();
    }
  }
} catch (error) {
  say({ kind: error.constructor.name, status: error.status, code: error.code, param: error.param });
}
