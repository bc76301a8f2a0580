// A photo from the camera.

import { $, notice, openDialog } from "./dom.js";

/** @returns {Promise<File | null>} */
export async function takePhoto() {
  if (!navigator.mediaDevices?.getUserMedia) {
    notice("There is no camera here: the browser has none to offer, or the page was not opened over https or from localhost.");
    return null;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
  } catch (error) {
    notice(problem(/** @type {Error} */ (error)));
    return null;
  }
  try {
    return await shoot(stream);
  } finally {
    for (const track of stream.getTracks()) track.stop();
    $("video").srcObject = null;
  }
}

/** @param {Error} error */
function problem({ name, message }) {
  if (name === "NotAllowedError") return "The camera is not allowed for this page. Allow it in the browser's address bar and try again.";
  if (name === "NotFoundError") return "No camera was found. Is one connected?";
  if (name === "NotReadableError") return "The camera is in use by another program.";
  return `The camera cannot be used: ${message}`;
}

/** @param {MediaStream} stream @returns {Promise<File | null>} */
async function shoot(stream) {
  const video = $("video");
  const dialog = $("camera-dialog");
  video.srcObject = stream;
  openDialog(dialog);
  await video.play();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(null);
    $("shoot").onclick = async () => {
      const picture = await grab(video);
      resolve(picture);
      dialog.close();
    };
  });
}

/** @param {HTMLVideoElement} video */
async function grab(video) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d")?.drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([/** @type {Blob} */ (blob)], "camera.png", { type: "image/png" });
}
