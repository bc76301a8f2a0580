import { loadModel } from "mmgem";

const model = await loadModel("model");
const file = await (await fetch("photo.jpg")).blob();
const photo = await model.openPhoto(file);
const region = [0, 0, photo.width / 2, photo.height];

const line = document.querySelector("#caption");
for await (const piece of model.captionRegion(photo, region)) line?.append(piece);
