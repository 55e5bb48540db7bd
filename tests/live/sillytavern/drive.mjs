// SillyTavern's own routes for pictures, without its pages and its users: node drive.mjs IMAGEN_URL AUTH
// Says one line of JSON for each thing that it did.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [imagen, auth] = process.argv.slice(2);
const require = createRequire(import.meta.resolve('sillytavern/package.json'));
const express = require('express');
const part = (path) => pathToFileURL(require.resolve(`sillytavern/${path}`)).href;
const say = (told) => process.stdout.write(`${JSON.stringify(told)}\n`);
// What it logs holds whole pictures.
console.info = console.debug = console.log = () => {};
console.error = (...words) => process.stderr.write(`${words.join(' ')}\n`);

const { setConfigFilePath } = await import(part('src/util.js'));
setConfigFilePath(require.resolve('sillytavern/default/config.yaml'));
const { router } = await import(part('src/endpoints/stable-diffusion.js'));
const app = express();
app.use(express.json({ limit: '50mb' }));
app.use('/api/sd', router);
const server = app.listen(0, '127.0.0.1');
await new Promise((ready) => server.once('listening', ready));
const here = `http://127.0.0.1:${server.address().port}/api/sd`;

const base = { url: imagen, auth };
const wanted = {
    negative_prompt: 'lowres',
    sampler_name: 'DDIM',
    scheduler: 'normal',
    steps: 20,
    cfg_scale: 7,
    width: 512,
    height: 512,
    restore_faces: false,
    enable_hr: false,
    hr_upscaler: 'Latent',
    hr_scale: 1,
    hr_additional_modules: [],
    denoising_strength: 0.7,
    hr_second_pass_steps: 0,
    override_settings: { CLIP_stop_at_last_layers: 1, forge_additional_modules: ['x'] },
    override_settings_restore_afterwards: true,
    clip_skip: 1,
    save_images: true,
    send_images: true,
    do_not_save_grid: false,
    do_not_save_samples: false,
};

async function ask(route, body, options = {}) {
    const answer = await fetch(`${here}/${route}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ ...base, ...body }),
        ...options,
    });
    const text = await answer.text();
    let told = text;
    try {
        told = JSON.parse(text);
    } catch {
        // plain text, as most of its routes answer
    }
    say({ route, status: answer.status, told });
}

for (const route of ['ping', 'upscalers', 'vaes', 'samplers', 'schedulers', 'models', 'get-model']) {
    await ask(route, {});
}
await ask('set-model', { model: 'slower' });
await ask('get-model', {});
await ask('generate', { ...wanted, prompt: '[slow:0] a fox' });
const leaving = new AbortController();
setTimeout(() => leaving.abort(), 1500);
try {
    await ask('generate', { ...wanted, prompt: '[slow:60] a fox that is stopped' }, { signal: leaving.signal });
} catch (error) {
    say({ route: 'stopped', status: 0, told: error.name });
}
if (!auth) {
    await ask('sdcpp/ping', {});
    await ask('sdcpp/models', {});
    await ask('sdcpp/generate', { ...wanted, prompt: '[slow:0] a fox', model: 'slower', sampler_name: 'euler_a' });
}
await ask('drawthings/ping', {});
await ask('drawthings/get-model', {});
await ask('drawthings/generate', { ...wanted, prompt: '[slow:0] a fox', seed: 5 });
await new Promise((done) => setTimeout(done, 500));
process.exit(0);
