const fetch = require('node-fetch');
const apiKey = 'aimichat_your_api_key_here';
const url = 'https://aimichat.app/v1/chat/completions';
const data = {
messages: [
{ role: 'user', content: 'What is the capital of France?' }
],
max_tokens: 100
};
fetch(url, {
method: 'POST',
headers: {
'Authorization': `Bearer ${apiKey}`,
'Content-Type': 'application/json'
},
body: JSON.stringify(data)
})
.then(res => res.json())
.then(data => console.log(data));
