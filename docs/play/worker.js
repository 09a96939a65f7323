// Runs the network apart from the page, so that the page stays alive meanwhile.
// In: {pixels, mask, width, height, version}: bytes of RGBA, and of the mask, 0 or 255.
// Out: {probabilities, version}, Float32Array of the foreground; or {error}.
let session = null;

async function open() {
  const options = { graphOptimizationLevel: "all" };
  if (navigator.gpu) {
    try {
      const ort = await import("./ort/ort.webgpu.min.mjs");
      ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
      const found = await ort.InferenceSession.create("mask-refiner.onnx", {
        ...options,
        executionProviders: ["webgpu"],
      });
      return { ort, session: found };
    } catch (error) {
      console.warn(`WebGPU cannot run the network, so the CPU does: ${error}`);
    }
  }
  const ort = await import("./ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  // Threads need a server that isolates the page; a plain file server does not.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  return {
    ort,
    session: await ort.InferenceSession.create("mask-refiner.onnx", {
      ...options,
      executionProviders: ["wasm"],
    }),
  };
}

self.onmessage = async ({ data: { pixels, mask, width, height, version } }) => {
  try {
    session ??= await open();
    const count = width * height;
    const image = new Float32Array(3 * count);
    const given = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      for (let channel = 0; channel < 3; channel++) {
        image[channel * count + i] = pixels[4 * i + channel] / 255;
      }
      given[i] = mask[i] / 255;
    }
    const { ort } = session;
    const found = await session.session.run({
      images: new ort.Tensor("float32", image, [1, 3, height, width]),
      masks: new ort.Tensor("float32", given, [1, 1, height, width]),
    });
    const probabilities = await found.refined.getData();
    self.postMessage({ probabilities: Float32Array.from(probabilities), version });
  } catch (error) {
    self.postMessage({ error: String(error) });
  }
};
